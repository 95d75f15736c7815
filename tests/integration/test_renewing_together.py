"""However many leases a client holds, one message renews them all; the broker is in this process and counts."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager

import pytest

from broker.client import AsyncClient, Client
from broker.messages import Renew, RenewMany, Request
from tests.in_process import InProcess
from tests.processes import wait_for

TTL_MS = 12_000
"""Long enough that no answer is late on a busy machine: such a lease is asked for again by itself."""
LEASES = 20
ROUNDS = 2


class Counting:
    """Serves a client that runs on another thread. The broker's clock stands still: nothing expires here."""

    def __init__(self, broker: InProcess, url: str) -> None:
        self.broker = broker
        self.url = url
        self.renewals: list[int] = []
        """Leases in each message that renews."""
        for number in range(LEASES):
            broker.submit(f"job-{number}", ttl_ms=TTL_MS)

    def serve(self) -> bool:
        """Settle what is there; never all there will be."""
        hand = self.broker.take()
        if hand.entries:
            settled = self.broker.settle(hand.entries)
            self.renewals += [renewed for _, each in settled if (renewed := _renewed(each.request))]
            self.broker.finish(settled)
        return False

    def rounds_of_all(self) -> bool:
        """Whether the last messages carried every lease."""
        self.serve()
        return self.renewals[-ROUNDS:] == [LEASES] * ROUNDS

    @contextmanager
    def client(self, holds: Callable[[str, threading.Event], None]) -> Iterator[None]:
        """A client that holds its leases for as long as the block runs."""
        over = threading.Event()
        thread = threading.Thread(target=holds, args=(self.url, over))
        thread.start()
        try:
            yield
        finally:
            over.set()
            wait_for(lambda: self.serve() or not thread.is_alive(), "it has given its leases back")


def threads(url: str, over: threading.Event) -> None:
    with Client.connect(url, factory_id="f", wire="intake") as client, ExitStack() as stack:
        for _ in range(LEASES):
            stack.enter_context(client.lease())
        over.wait(60)


def tasks(url: str, over: threading.Event) -> None:
    async def main() -> None:
        async with AsyncClient.connect(url, factory_id="f", wire="intake") as client, AsyncExitStack() as stack:
            for _ in range(LEASES):
                await stack.enter_async_context(client.lease())
            await asyncio.to_thread(over.wait, 60)

    asyncio.run(main())


@pytest.mark.parametrize("holds", [threads, tasks])
def test_one_message_renews_every_lease_of_a_client(
    broker: InProcess, redis_url: str, holds: Callable[[str, threading.Event], None]
) -> None:
    counting = Counting(broker, redis_url)
    with counting.client(holds):
        wait_for(counting.rounds_of_all, f"{ROUNDS} messages in a row carry all {LEASES} leases")
        held = broker.store.find({"kind": "job", "state": "leased", "epoch": 1}).documents
        assert len(held) == LEASES, "none was lost"
    released = broker.store.find({"kind": "job", "state": "ready"}).documents
    assert len(released) == LEASES


def _renewed(request: Request) -> int:
    assert not isinstance(request, Renew), "no lease is renewed by itself"
    return len(request.body.leases) if isinstance(request, RenewMany) else 0
