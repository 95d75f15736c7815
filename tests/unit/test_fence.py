"""The fence: who is let through to a job, and what the others are told."""

from typing import Any

import pytest

from broker.fence import FenceLost, FenceOk, Impossible, Loss, Replayed, UsedToClaim, check
from tests.unit.jobs import EPOCH, NOW, job, lease
from tests.unit.jobs import fence as by
from tests.unit.transition_table import ENDED


def test_the_holder_passes_also_after_its_expiry_while_nobody_has_taken_over() -> None:
    assert check(job("leased"), by()) == FenceOk()
    assert check(job("leased", lease=lease(expires_ms=NOW - 1_000_000)), by()) == FenceOk()


@pytest.mark.parametrize(
    "wrong",
    [
        {"token": "f" * 32},
        {"token": ""},
        {"token": "a" * 31},
        {"token": "a" * 33},
        {"token": "ä" * 32},
        {"factory_id": "somebody-else"},
        {"epoch": EPOCH - 1},
        {"epoch": EPOCH - 1, "token": "f" * 32},
    ],
)
def test_whoever_has_one_thing_wrong_holds_nothing(wrong: dict[str, Any]) -> None:
    assert check(job("leased"), by(**wrong)) == FenceLost(Loss.SUPERSEDED)


@pytest.mark.parametrize("state", ["leased", "ready", "succeeded"])
def test_an_epoch_the_job_has_not_reached_is_an_alarm_not_a_conflict(state: str) -> None:
    assert check(job(state), by(epoch=EPOCH + 1)) == Impossible()


@pytest.mark.parametrize(
    ("outcome", "loss"),
    [
        ("expired", Loss.RECLAIMED),
        ("revoked", Loss.REVOKED),
        ("released", Loss.RELEASED),
        ("failed", Loss.RELEASED),
    ],
)
def test_a_holder_without_a_lease_is_told_how_it_was_lost(outcome: str, loss: Loss) -> None:
    assert check(job("ready", last_end={**ENDED, "outcome": outcome}), by()) == FenceLost(loss)


@pytest.mark.parametrize(
    "last_end",
    [None, {**ENDED, "epoch": EPOCH - 1, "outcome": "expired"}, {**ENDED, "outcome": "superseded"}],
    ids=["no end on record", "the end of an earlier run", "an end that nobody could name"],
)
def test_a_holder_whose_end_is_not_known_is_told_that_the_lease_was_released(last_end: dict[str, Any] | None) -> None:
    assert check(job("ready", last_end=last_end), by()) == FenceLost(Loss.RELEASED)


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_a_job_that_has_ended_says_so_to_its_last_holder_and_superseded_to_earlier_ones(state: str) -> None:
    assert check(job(state, last_end=ENDED), by()) == FenceLost(Loss.TERMINAL)
    assert check(job(state, last_end=ENDED), by(epoch=EPOCH - 1)) == FenceLost(Loss.SUPERSEDED)


def test_a_request_that_was_carried_out_is_a_replay_whatever_came_after_it() -> None:
    done = [{"request_id": "request-1", "op": "release", "epoch": EPOCH, "state": "ready"}]
    for state in ("ready", "leased", "succeeded"):
        now = job(state, epoch=EPOCH + 1, recent_requests=done, **_lease_at(state, EPOCH + 1))
        assert check(now, by()) == Replayed()
        assert check(now, by("request-2")) == FenceLost(Loss.SUPERSEDED)


def test_the_request_that_claimed_the_lease_asks_for_nothing_else() -> None:
    assert check(job("leased"), by("claim-1")) == UsedToClaim()
    assert check(job("leased"), by("claim-1", token="f" * 32)) == FenceLost(Loss.SUPERSEDED)


def test_a_remembered_claim_is_no_replay_of_what_a_holder_asks() -> None:
    claimed = [{"request_id": "request-1", "op": "claim", "epoch": EPOCH - 1, "state": "leased"}]
    assert check(job("leased", recent_requests=claimed), by()) == FenceOk()


def test_a_request_of_another_factory_under_the_same_id_is_no_replay() -> None:
    done = [{"request_id": "request-1", "factory_id": "other", "op": "release", "epoch": EPOCH - 1, "state": "ready"}]
    assert check(job("leased", recent_requests=done), by()) == FenceOk()
    assert check(job("leased", recent_requests=[{**done[0], "factory_id": "holder"}]), by()) == Replayed()


def _lease_at(state: str, epoch: int) -> dict[str, object]:
    return {"lease": lease(epoch=epoch)} if state == "leased" else {}
