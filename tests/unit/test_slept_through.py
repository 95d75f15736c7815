"""A machine that was suspended: its clock has gone on, and its timers go on from where they stood."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from broker.client import LeaseLost
from broker.client.async_lease import AsyncLease
from broker.client.guard import Wiring
from broker.client.keeper import Keeper
from broker.client.keeper_async import AsyncKeeper
from broker.client.lease import Lease
from broker.client.notices import Notices
from broker.entropy import SystemEntropy
from tests.processes import DEADLINE_MS, wait_for
from tests.unit.test_call import grant

TTL_MS = 10 * DEADLINE_MS
"""By its timers its first renewal is due later than a test waits."""


class Sleeper:
    """A machine, and a broker that can't be reached from it."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.lost: list[str] = []

    def steady_ms(self) -> int:
        return self.now_ms

    def keeping(self, kind: Any, line: Any) -> Any:
        return kind(lambda: line, notices=Notices(), entropy=SystemEntropy(), steady_ms=self.steady_ms)

    def wiring(self, keeper: Any) -> Wiring[Any]:
        claim = grant(sent_ms=self.now_ms, ttl_ms=TTL_MS, remaining_ms=TTL_MS)
        operations: Any = SimpleNamespace(release=None)  # nothing is asked of it
        return Wiring(operations, keeper, claim, self.lost.append, None, SystemEntropy(), self.steady_ms)


class Line:
    """Answers nothing, in time at least."""

    def renew_many(self, leases: Any, *, timeout_ms: int) -> Any:
        raise AssertionError(f"{leases} were lost by then: {timeout_ms}")

    def close(self) -> None:
        pass


class AsyncLine(Line):
    async def close(self) -> None:  # type: ignore[override]  # of the other kind
        pass


def test_a_thread_that_holds_a_lease_is_told_of_its_loss_as_the_machine_wakes() -> None:
    machine = Sleeper()
    keeper = machine.keeping(Keeper, Line())
    with pytest.raises(LeaseLost, match="deadline"), Lease(machine.wiring(keeper)) as lease:  # noqa: PT012  # all of it
        wait_for(lambda: len(keeper._changed._waiters) == 2, "what renews and what watches wait")
        machine.now_ms += 3_600_000
        wait_for(lease.lost.is_set, "the loss is noticed")
    keeper.close()
    assert machine.lost == ["deadline"]


def test_a_task_that_holds_a_lease_is_cancelled_as_the_machine_wakes() -> None:
    machine = Sleeper()

    async def main() -> None:
        keeper = machine.keeping(AsyncKeeper, AsyncLine())
        with pytest.raises(LeaseLost, match="deadline"):  # noqa: PT012  # a guard's whole block is what raises
            async with AsyncLease(machine.wiring(keeper)), asyncio.timeout(DEADLINE_MS / 1_000):
                await asyncio.sleep(0)  # until what keeps it waits
                machine.now_ms += 3_600_000
                await asyncio.Event().wait()
        await keeper.close()

    asyncio.run(main())
    assert machine.lost == ["deadline"]
