"""How often a limit lets a job start: exact in every window, whatever became of a claim, and of the clock."""

from collections.abc import Callable, Sequence

import pytest

from broker import rates
from broker.answers import Reason, Word
from broker.limits import Rate
from broker.messages import REQUESTS
from broker.quotas import rate_id
from broker.settle import settle
from datastore import Conflict, Datastore, Expected, Ok, Patch, UpdateResult
from tests.twins.forwarding import Forwarding
from tests.unit.desk import NOW, Desk

DAY_MS = 86_400_000


class GivenBackUnseen(Forwarding):
    """Another takes job `x` first. What is given back lands, is written over, and is answered as a lost race."""

    def __init__(self, inner: Datastore, steal: Callable[[], object], over: Callable[[], object]) -> None:
        super().__init__(inner)
        self._acts = [steal, over]

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        if id == "x" and len(self._acts) == 2:
            self._acts.pop(0)()
        elif id == rate_id("key:k") and len(self._acts) == 1:
            assert isinstance(super().update_if_match(id, partition_key, expected, patch), Ok)
            self._acts.pop(0)()
            found = self.read(id, partition_key)
            assert isinstance(found, Ok)
            return Conflict(found.document)
        return super().update_if_match(id, partition_key, expected, patch)


def test_a_start_that_was_given_back_once_is_not_given_back_again_at_the_cost_of_another() -> None:
    desk = Desk()
    for job in "abcdx":
        desk.submit(job, concurrency=["k"])
    desk.ask("set_limit", limit="key:k", rate={"count": 3, "per_ms": 60_000})
    desk.claim("a")
    store = GivenBackUnseen(desk.store, lambda: desk.ask("hold", job_id="x"), lambda: desk.claim("b"))
    desk.ask("claim", store=store, job_id="x")
    for job in "cd":
        desk.ask("claim", job_id=job)
    assert [job for job in "abcdx" if desk.job(job).lease is not None] == ["a", "b", "c"]


def test_moments_from_before_the_clock_was_set_back_count_no_more() -> None:
    rate = Rate(count=1, per_ms=1_000)
    assert rates.admitted([NOW + DAY_MS], rate, NOW) == [NOW]
    assert rates.admitted([NOW + 500], rate, NOW) is None, "a worker that is a little late"


@pytest.mark.parametrize("lowered", [Rate(count=1, per_ms=1_000), Rate(count=5, per_ms=60_000)])
def test_a_rate_that_was_lowered_admits_again_once_its_own_window_has_room(lowered: Rate) -> None:
    fast, moments = Rate(count=5, per_ms=1_000), list[int]()
    for moment in [NOW + 200 * start for start in range(10)]:
        moments = rates.admitted(moments, fast, moment) or []
    last = max(moments)
    free = rates.free_ms(moments, lowered, last)
    assert rates.admitted(moments, lowered, free - 1) is None
    assert rates.admitted(moments, lowered, free) is not None
    assert last < free <= last + lowered.per_ms


def test_a_limits_lowered_rate_does_not_keep_its_jobs_for_ever() -> None:
    desk = Desk()
    for job in "abcd":
        desk.submit(job, concurrency=["k"])
    desk.ask("set_limit", limit="key:k", rate={"count": 3, "per_ms": 60_000})
    for job in "abc":
        desk.claim(job)
    desk.ask("set_limit", limit="key:k", rate={"count": 1, "per_ms": 60_000})
    assert desk.ask("claim", job_id="d").answer.reason is Reason.QUOTA
    assert desk.ask("claim", job_id="d", now_ms=NOW + 60_000).answer.word is Word.GRANTED


def removed(desk: Desk) -> None:
    assert desk.ask("remove_limit", limit="key:k").answer.good


def without_its_rate(desk: Desk) -> None:
    """Its other half stands."""
    assert desk.ask("set_limit", limit="key:k", capacity=9, rate=None).answer.good


def a_rate_used_up(desk: Desk) -> None:
    for job in "abc":
        desk.submit(job, concurrency=["k"])
    set_rate(desk, count=1, now_ms=NOW)
    desk.claim("a", now_ms=NOW + 1)
    assert desk.ask("claim", job_id="b", now_ms=NOW + 1).answer.reason is Reason.QUOTA


def set_rate(desk: Desk, *, count: int, now_ms: int, per_ms: int = 3_600_000) -> None:
    rate = {"count": count, "per_ms": per_ms}
    assert desk.ask("set_limit", limit="key:k", rate=rate, now_ms=now_ms).answer.good


@pytest.mark.parametrize("ended", [removed, without_its_rate])
def test_a_rate_that_was_removed_and_set_again_counts_the_grants_since_then(ended: Callable[[Desk], None]) -> None:
    desk = Desk()
    a_rate_used_up(desk)
    ended(desk)
    set_rate(desk, count=1, now_ms=NOW + 2)
    assert desk.ask("explain", job_id="b", now_ms=NOW + 3).answer.body["claimable"] is True
    desk.claim("b", now_ms=NOW + 3)
    refused = desk.ask("claim", job_id="c", now_ms=NOW + 4).answer
    assert refused.reason is Reason.QUOTA
    assert refused.body["obstacles"][0]["until_ms"] == NOW + 3 + 3_600_000


def test_a_rate_that_is_changed_and_not_removed_goes_on_counting() -> None:
    desk = Desk()
    a_rate_used_up(desk)
    set_rate(desk, count=1, per_ms=1_800_000, now_ms=NOW + 2)
    assert desk.ask("claim", job_id="b", now_ms=NOW + 3).answer.reason is Reason.QUOTA
    assert desk.ask("set_limit", limit="key:k", capacity=9, now_ms=NOW + 4).answer.good
    assert desk.ask("claim", job_id="b", now_ms=NOW + 5).answer.reason is Reason.QUOTA
    set_rate(desk, count=2, now_ms=NOW + 6)
    desk.claim("b", now_ms=NOW + 7)
    assert desk.ask("claim", job_id="c", now_ms=NOW + 8).answer.reason is Reason.QUOTA


def test_what_a_batch_grants_that_knows_a_rate_as_it_was_before_counts_under_the_new_one() -> None:
    desk = Desk()
    a_rate_used_up(desk)
    desk.ask("set_limit", limit="key:k", rate={"count": 2, "per_ms": 3_600_000}, now_ms=NOW)
    batch = desk.with_controls()
    assert batch.controls is not None
    assert batch.controls.limits()["key:k"].rate == Rate(count=2, per_ms=3_600_000)
    removed(desk)
    set_rate(desk, count=2, now_ms=NOW + 2)
    desk.claim("b", now_ms=NOW + 3)
    body = {"op": "claim", "request_id": "late", "factory_id": "f", "incarnation": "start-1", "instance": "x"}
    late = REQUESTS.validate_python({**body, "body": {"job_id": "c"}})
    assert settle(batch, late, now_ms=NOW + 2).answer.word is Word.GRANTED
    desk.submit("d", concurrency=["k"])
    assert desk.ask("claim", job_id="d", now_ms=NOW + 4).answer.reason is Reason.QUOTA


def test_a_rate_set_again_after_the_clock_was_set_back_does_not_admit_more_for_that() -> None:
    desk = Desk()
    a_rate_used_up(desk)
    removed(desk)
    set_rate(desk, count=1, now_ms=NOW - 1_000)
    assert desk.ask("claim", job_id="b", now_ms=NOW - 900).answer.reason is Reason.QUOTA
    removed(desk)
    set_rate(desk, count=1, now_ms=NOW - DAY_MS)
    desk.claim("b", now_ms=NOW - DAY_MS + 1)
    assert desk.ask("claim", job_id="c", now_ms=NOW - DAY_MS + 2).answer.reason is Reason.QUOTA


def test_when_the_next_start_is_free_is_not_said_by_moments_from_before_the_clock_was_set_back() -> None:
    rate = Rate(count=1, per_ms=3_600_000)
    assert rates.free_ms([NOW - 1_000, NOW + DAY_MS], rate, NOW) == NOW - 1_000 + rate.per_ms


def test_a_grant_by_the_time_before_the_clock_was_set_back_hides_none_of_those_since() -> None:
    rate, since = Rate(count=2, per_ms=4_000), NOW - DAY_MS
    moments: Sequence[int] = []
    for now_ms in (since, since + 1_000, NOW):  # the last by a worker that had its time from before
        moments = rates.admitted(moments, rate, now_ms) or pytest.fail("it fits")
    assert rates.admitted(moments, rate, since + 3_000) is None, "it would be the third within four seconds"
    assert rates.admitted(moments, rate, since + 4_000) == [since, since + 1_000, since + 4_000]


def test_what_is_kept_for_that_goes_with_the_grant_after() -> None:
    rate = Rate(count=2, per_ms=4_000)
    moments = rates.admitted([NOW - DAY_MS, NOW - DAY_MS + 1, NOW - DAY_MS + 5_000], rate, NOW) or []
    assert moments == [NOW - DAY_MS + 1, NOW - DAY_MS + 5_000, NOW]
    assert rates.admitted(moments, rate, NOW + 1) == [NOW, NOW + 1]
