"""Jobs that wait for a busy lock or a full limit stay aside: the sweep does not put them before all others again."""

from typing import Any

import pytest

from broker import batch, lock_waits, standing_aside
from broker.batch import CANDIDATES_MAX
from broker.limits import limit_key
from broker.standing_aside import Aside
from tests.in_process import InProcess

SLOTS: dict[str, dict[str, Any]] = {"repo": {"locks": ["repo"]}, limit_key("key:gpu"): {"concurrency": ["gpu"]}}
"""By the key that jobs wait at, what has them wait there."""


@pytest.fixture(params=SLOTS, ids=["a lock", "a limit"])
def slot(request: pytest.FixtureRequest, broker: InProcess) -> str:
    """A busy slot; more jobs than a claim tries wait aside for it, and are older than any that comes now."""
    broker.ask(broker.caller.make("set_limit", limit="key:gpu", capacity=1))
    names = [f"job-{number:02}" for number in range(CANDIDATES_MAX + 4)]
    broker.submit("held", **SLOTS[request.param])
    broker.clock.advance(1)
    broker.submit(*names, **SLOTS[request.param])
    assert claimed(broker) == "held"
    while broker.redis.zcard(lock_waits.waits_key(request.param)) < len(names):
        assert claimed(broker) is None
    broker.clock.advance(1)
    return str(request.param)


def claimed(broker: InProcess) -> str | None:
    """What a claim of any job is granted."""
    [reply] = broker.ask(broker.caller.make("claim", ttl_ms=3_600_000))
    return reply["body"]["job_id"] if reply["answer"] == "granted" else None


def hidden_after_a_sweep(broker: InProcess, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a job that anybody may have is hidden by those that wait, from a claim that has no time for them."""
    monkeypatch.setattr(batch, "TRIES_MS", 0)
    broker.submit("free")
    broker.sweep()
    return claimed(broker) != "free"


@pytest.mark.usefixtures("slot")
def test_jobs_that_wait_hide_no_others_after_a_sweep(broker: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not hidden_after_a_sweep(broker, monkeypatch)


@pytest.mark.usefixtures("slot")
def test_a_sweep_that_offered_them_again_would_hide_the_others(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The twin of the test above.
    monkeypatch.setattr(standing_aside, "found", lambda *_, **__: Aside(frozenset(), [], {}))
    assert hidden_after_a_sweep(broker, monkeypatch)


def free_without_a_word(broker: InProcess) -> None:
    """End the lease by a worker that dies before it tells anybody."""
    [grant] = broker.ask(broker.caller.make("get_job", job_id="held"))
    assert grant["body"]["job"]["state"] == "leased"
    broker.caller.send(broker.caller.make("revoke", job_id="held", hold=True))
    broker.settle(broker.take("w1").entries, "w1")


@pytest.mark.usefixtures("slot")
def test_one_whose_slot_was_freed_and_nobody_told_is_let_through_by_the_sweep(broker: InProcess) -> None:
    free_without_a_word(broker)
    assert claimed(broker) is None, "nobody was told"
    broker.sweep()
    assert claimed(broker) == "job-00"
    broker.sweep()
    assert claimed(broker) is None


def test_those_whose_wait_redis_has_lost_are_offered_again(broker: InProcess, slot: str) -> None:
    broker.redis.delete(lock_waits.waits_key(slot))
    assert broker.sweep().indexed == CANDIDATES_MAX + 4
    free_without_a_word(broker)
    assert claimed(broker) == "job-00"


def test_where_more_slots_are_waited_at_than_a_sweep_looks_at_some_are_let_through_to_find_out(
    broker: InProcess, slot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing_aside, "LOOKS_MAX", 0)
    waiting = broker.redis.zcard(lock_waits.waits_key(slot))
    assert broker.sweep().indexed == 0
    assert 0 < broker.redis.zcard(lock_waits.waits_key(slot)) < waiting


@pytest.mark.parametrize("slot", [limit_key("key:gpu")], indirect=True)
@pytest.mark.usefixtures("slot")
def test_jobs_that_wait_at_a_limit_which_is_gone_wait_no_more(broker: InProcess) -> None:
    broker.caller.send(broker.caller.make("remove_limit", limit="key:gpu"))
    broker.settle(broker.take("w1").entries, "w1")  # a worker that dies before it tells anybody
    assert broker.sweep().indexed == CANDIDATES_MAX + 4
