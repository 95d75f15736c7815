"""Locks, limits and rates under 32 processes and two real workers: exact counts, and twins that break them."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import redis

from broker.documents import Run
from broker.limits import limit_key
from broker.repository import find_documents
from broker.slots import slot_id
from datastore import Datastore, Ok
from tests.caller import Caller
from tests.concurrency.holders import REACH, overlaps
from tests.concurrency.test_processes import ROOT, two_workers
from tests.contract.racing import open_store
from tests.processes import start

PROCESSES = 32
SOUND = "tests.twins.unbatched:open_sound"
TWIN = "tests.twins.unbatched:open_twin"
TRIES = 4
"""On a crowded machine two workers may not be at one slot in the same moment: then more jobs are raced for."""
PATHS = ("repo:web", "repo:web/src", "repo:web/src/app", "repo:web/docs", "data@shared", "data", "repo:web/src@shared")


@dataclass
class Fleet:
    """Two workers, and a queue to be worked off by 32 processes."""

    caller: Caller
    store: Datastore
    redis_url: str
    witness: Path
    jobs: int = 0

    def submit(self, count: int, **fields: Any) -> None:
        self.caller.submit(*(f"job-{self.jobs + number}" for number in range(count)), **fields)
        self.jobs += count

    def ask(self, op: str, **body: Any) -> None:
        assert self.caller.ask(op, **body)["answer"] == "ok"

    def work_off(self, *queues: str) -> list[frozenset[str]]:
        """Every set of jobs that was held at one moment. All of them were done once."""
        found = self.set_to_work(*queues)
        states = Counter(document.body["state"] for document in find_documents(self.store, {"kind": "job"}))
        assert states == {"succeeded": self.jobs}
        return found

    def set_to_work(self, *queues: str) -> list[frozenset[str]]:
        """The same on a twin, which may lose jobs too: nobody sweeps here."""
        arguments = [self.redis_url, str(PROCESSES), str(self.witness), str(self.jobs), *(queues or ("default",))]
        process = start([sys.executable, "-m", "tests.concurrency.holders", *arguments], env={"PYTHONPATH": ROOT})
        output, _ = process.communicate(timeout=100)
        assert process.returncode == 0, output
        return overlaps(self.witness)

    def set_to_more_work(self, count: int) -> list[frozenset[str]]:
        """The same with so many more jobs."""
        self.submit(count, queue="builds")
        return self.set_to_work("builds")

    def runs(self) -> list[Run]:
        return [Run.from_document(document) for document in find_documents(self.store, {"kind": "run"})]

    def entries(self, limit: str) -> list[Any]:
        """What is left in a limit's slot."""
        found = self.store.read(slot_id(limit_key(limit)), slot_id(limit_key(limit)))
        assert isinstance(found, Ok)
        holders: Any = found.document.body["holders"]
        return list(holders)


@contextmanager
def fleet_on(opener: str, path: str, redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    store = open_store(opener, path)
    with two_workers(redis_url, opener, path), redis.Redis.from_url(redis_url) as connection:
        yield Fleet(Caller(connection, "operator"), store, redis_url, tmp_path / "witness")
    store.close()


@pytest.fixture(params=["sqlite", "step by step", pytest.param("cosmos", marks=pytest.mark.cosmos)])
def fleet(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    """On SQLite as it is served, on SQLite with every step of a claim on its own, and on Cosmos."""
    path = str(tmp_path / "jobs.db")
    opener = "datastore:connect"
    if request.param == "cosmos":
        path = request.getfixturevalue("cosmos_url")
    elif request.param == "sqlite":
        path = f"sqlite:///{path}"
    else:
        opener = SOUND
    with fleet_on(opener, path, redis_url, tmp_path) as found:
        yield found


def conflict(one: str, other: str) -> bool:
    """Whether two locks exclude each other; written without looking at the broker's rules."""
    paths = [lock.removesuffix("@shared").split("/") for lock in (one, other)]
    depth = min(map(len, paths))
    both_shared = one.endswith("@shared") and other.endswith("@shared")
    return paths[0][:depth] == paths[1][:depth] and not both_shared


def test_no_two_conflicting_locks_are_ever_held_together(fleet: Fleet) -> None:
    locks: dict[str, list[str]] = {}
    sets = [*([path] for path in PATHS), ["data", "repo:web/docs"], ["data@shared", "repo:web/src"], ["repo:web", "z"]]
    for number in range(4 * len(sets)):
        locks[f"job-{number}"] = sets[number % len(sets)]
        fleet.submit(1, locks=locks[f"job-{number}"])
    seen: set[frozenset[str]] = set()
    for held in set(fleet.work_off()):
        for one, other in combinations(sorted(held), 2):
            pairs = [(a, b) for a in locks[one] for b in locks[other]]
            assert not any(conflict(a, b) for a, b in pairs), f"{locks[one]} and {locks[other]} at once"
            seen.add(frozenset((one, other)))
    assert seen, "nothing ever ran beside anything: it tests nothing"


def test_the_limit_of_a_queue_is_reached_and_never_passed(fleet: Fleet) -> None:
    fleet.ask("set_limit", limit="queue:builds", capacity=3)
    fleet.submit(60, queue="builds")
    fleet.caller.redis.set(REACH, 3)
    assert max(map(len, fleet.work_off("builds"))) == 3
    assert fleet.entries("queue:builds") == []


def test_the_limit_of_a_key_holds_over_queues_and_lets_others_pass(fleet: Fleet) -> None:
    fleet.ask("set_limit", limit="key:gpu", capacity=2)
    fleet.submit(20, queue="builds", concurrency=["gpu"])
    fleet.submit(20, queue="tests", concurrency=["gpu"])
    fleet.submit(20, queue="tests")
    fleet.caller.redis.set(REACH, 3)
    found = fleet.work_off("builds", "tests")
    limited = {f"job-{number}" for number in range(40)}
    assert max(len(held & limited) for held in found) == 2
    assert max(map(len, found)) > 2
    assert fleet.entries("key:gpu") == []


def test_a_rate_is_never_passed_in_any_window(fleet: Fleet) -> None:
    count, per_ms = 10, 500
    fleet.ask("set_limit", limit="queue:builds", rate={"count": count, "per_ms": per_ms})
    fleet.submit(40, queue="builds")
    fleet.work_off("builds")
    started = sorted(run.started_ms for run in fleet.runs())
    assert len(started) == 40
    assert all(later - earlier >= per_ms for earlier, later in zip(started, started[count:], strict=False))


def test_a_limit_lowered_and_raised_while_it_is_fought_for_holds_at_once(fleet: Fleet) -> None:
    fleet.submit(40, queue="builds")
    fleet.ask("set_limit", limit="queue:builds", capacity=4)
    fleet.ask("set_limit", limit="queue:builds", capacity=2)
    assert max(map(len, fleet.work_off("builds"))) == 2


def test_a_broken_compare_and_swap_of_slots_is_caught_every_time(redis_url: str, tmp_path: Path) -> None:
    with fleet_on(TWIN, str(tmp_path / "jobs.db"), redis_url, tmp_path) as fleet:
        fleet.ask("set_limit", limit="queue:builds", capacity=1)
        assert any(max(map(len, fleet.set_to_more_work(12))) > 1 for _ in range(TRIES))


def test_a_broken_compare_and_swap_of_rates_is_caught_every_time(redis_url: str, tmp_path: Path) -> None:
    with fleet_on(TWIN, str(tmp_path / "jobs.db"), redis_url, tmp_path) as fleet:
        fleet.ask("set_limit", limit="queue:builds", rate={"count": 1, "per_ms": 1_000})
        for _ in range(TRIES):
            fleet.set_to_more_work(6)
            started = sorted(run.started_ms for run in fleet.runs())
            if any(later - earlier < 1_000 for earlier, later in pairwise(started)):
                break
        else:
            pytest.fail("nothing started too soon")
