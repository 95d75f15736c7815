"""What a guard makes of answers that say nothing, and of callbacks that nobody would await."""

from types import SimpleNamespace
from typing import Any

import pytest

from broker.answers import Answer, Word
from broker.client import BrokerTimeout, ClientClosed, InvalidRequest, Lease
from broker.client.guard import Wiring
from broker.client.steps import drive
from broker.entropy import SystemEntropy
from tests.unit.test_call import grant, reply

UNKNOWN = reply(Answer(Word.OUTCOME_UNKNOWN), request_id="asked")


def guard(claimed: Any, *, on_lost: Any = None, on_cancel: Any = None) -> Lease:
    """A guard whose claim gets this answer, and whose every other request nobody knows the outcome of."""
    keeper: Any = SimpleNamespace(keep=lambda _: None, drop=lambda _: None, let_go=lambda _: None)
    operations: Any = SimpleNamespace(progress=lambda *_, **__: UNKNOWN, release=lambda *_, **__: UNKNOWN)
    return Lease(Wiring(operations, keeper, lambda: claimed, on_lost, on_cancel, SystemEntropy(), lambda: 0))


def test_a_claim_of_which_nobody_knows_is_not_said_to_be_refused() -> None:
    with pytest.raises(BrokerTimeout) as unknown:
        drive(guard(UNKNOWN)._entering())
    assert unknown.value.request_id == "asked"


def test_nor_is_progress() -> None:
    lease = guard(grant())
    drive(lease._entering())
    with pytest.raises(BrokerTimeout) as unknown:
        lease.progress("half")
    assert unknown.value.request_id == "asked"
    lease.check()


def test_an_interrupt_is_raised_though_the_client_was_closed_meanwhile() -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    def closed(_: Any) -> None:
        raise ClientClosed("the client is closed")

    lease = guard(grant())
    drive(lease._entering())
    lease._operations = SimpleNamespace(complete=interrupt)  # type: ignore[assignment]
    lease._keeper = SimpleNamespace(
        keep=closed, drop=lambda _: None, let_go=lambda _: None, is_running_me=lambda: False
    )  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        lease.complete()
    assert lease.lost.is_set()


async def forget(*_: Any) -> None:
    """Is awaited by nobody."""


@pytest.mark.parametrize("callback", ["on_lost", "on_cancel"])
def test_a_callback_that_would_have_to_be_awaited_is_refused_at_once(callback: str) -> None:
    with pytest.raises(InvalidRequest, match=callback):
        guard(grant(), **{callback: forget})
