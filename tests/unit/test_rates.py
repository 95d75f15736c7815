"""How often a limit lets a job start: exact in every window, whatever became of a claim, and of the clock."""

from collections.abc import Callable

from broker import rates
from broker.limits import Rate
from broker.quotas import rate_id
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
