"""Pauses, dependencies and superseding under 32 processes and two workers: exact counts, and twins that break them."""

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from broker.controls import FLEET_ID
from broker.documents import WAITING, Job
from broker.repository import find_documents
from datastore import Datastore, ReadResult, connect
from tests.caller import Caller
from tests.concurrency.race import read
from tests.concurrency.test_processes import ROOT
from tests.in_process import InProcess
from tests.processes import end, wait_for
from tests.twins.forwarding import Forwarding
from workers.leash import leashed

PROCESSES = 32
durable = pytest.mark.parametrize(
    "each_store", ["sqlite", pytest.param("cosmos", marks=pytest.mark.cosmos)], indirect=True
)
"""The memory store has the races of its own process; these are for the rules above."""
IDLE_S = 0.002

Asked = tuple[str, dict[str, Any]]


class Herds:
    """The process that the herds are forked from."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            leashed([sys.executable, "-m", "tests.concurrency.senders"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def ask(self, url: str, asked: Sequence[Sequence[Asked]]) -> list[list[Any]]:
        """A process for each item, all at the same moment; the replies of each."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"url": url, "asked": asked}) + "\n")
        self.process.stdin.flush()
        replies: list[list[Any]] = json.loads(self.process.stdout.readline())
        return replies


@pytest.fixture(scope="module")
def herds() -> Iterator[Herds]:
    herds = Herds()
    yield herds
    assert herds.process.stdin is not None
    herds.process.stdin.close()
    end(herds.process)


class Fleet:
    """Two workers in threads of this process, so that each store and each twin may serve, and herds of processes."""

    def __init__(self, store: Datastore, redis_url: str, herds: Herds) -> None:
        self.store = store
        self._herds = herds
        self.caller = Caller(redis.Redis.from_url(redis_url), "operator")
        self._url = redis_url

    @contextmanager
    def serving(self) -> Iterator["Fleet"]:
        """While the block runs, both serve."""
        over = threading.Event()
        workers = [threading.Thread(target=self._serve, args=(name, over)) for name in ("w1", "w2")]
        for worker in workers:
            worker.start()
        try:
            yield self
        finally:
            over.set()
            for worker in workers:
                worker.join()
            self.caller.redis.close()

    def _serve(self, name: str, over: threading.Event) -> None:
        with redis.Redis.from_url(self._url) as connection:
            own = InProcess(self.store, connection)
            while not over.wait(IDLE_S):
                own.serve(name)

    def herd(self, asked: Sequence[Sequence[Asked]]) -> list[list[Any]]:
        """A process for each item, all at the same moment; the replies of each."""
        return self._herds.ask(self._url, asked)

    def words(self, asked: Sequence[Asked]) -> Counter[str]:
        """One request for each process: how often each answer came."""
        replies = self.herd([[each] for each in asked])
        return Counter(_word(reply) for [reply] in replies)

    def become(self, **states: str) -> None:
        """Wait until the jobs are in these states: children are freed after their parents' holders are answered."""
        wait_for(lambda: {job: read(self.store, job).state.value for job in states} == states, f"{states}")


@pytest.fixture
def fleet(each_store: Datastore, redis_url: str, herds: Herds) -> Iterator[Fleet]:
    with Fleet(each_store, redis_url, herds).serving() as fleet:
        yield fleet


def _word(reply: Any) -> str:
    return "/".join([reply["answer"], *reply["body"].get("reasons", [])])


CLAIM: Asked = ("claim", {})
PAUSE: Asked = ("pause_queue", {"queue": "default"})
RESUME: Asked = ("resume_queue", {"queue": "default"})


def pauses(fleet: Fleet) -> list[str]:
    """Pause and resume a queue while 32 claim from it; what is wrong."""
    jobs = [f"job-{number}" for number in range(2 * PROCESSES)]
    fleet.caller.submit(*jobs)
    between = fleet.words([*[CLAIM] * PROCESSES, PAUSE])
    while_paused = fleet.words([CLAIM] * PROCESSES)
    after = fleet.words([*[CLAIM] * PROCESSES, RESUME])
    rest = fleet.words([CLAIM] * (2 * PROCESSES))
    granted = between["granted"] + after["granted"] + rest["granted"]
    leased = [Job.from_document(each) for each in find_documents(fleet.store, {"kind": "job", "state": "leased"})]
    facts = {
        f"while it was pausing: {between}": set(between) <= {"granted", "not_claimable/paused", "ok"},
        f"while it was paused: {while_paused}": while_paused == {"not_claimable/paused": PROCESSES},
        f"while it was resuming: {after}": set(after) <= {"granted", "not_claimable/paused", "ok"},
        f"afterwards: {rest}": set(rest) <= {"granted", "none_available"},
        f"{granted} grants": granted == len(jobs),
        f"{len(leased)} leases": [job.epoch for job in leased] == [1] * len(jobs),
    }
    return [fault for fault, fine in facts.items() if not fine]


class StalePauses(Forwarding):
    """The broken twin: what an operator set for the fleet is read once and never again."""

    def __init__(self, inner: Datastore) -> None:
        super().__init__(inner)
        self._read: ReadResult | None = None

    def read(self, id: str, partition_key: str) -> ReadResult:
        if id != FLEET_ID:
            return super().read(id, partition_key)
        self._read = self._read or super().read(id, partition_key)
        return self._read


@durable
def test_a_paused_queue_hands_out_nothing_to_32_and_everything_once_afterwards(fleet: Fleet) -> None:
    assert pauses(fleet) == []


def test_a_broker_that_does_not_look_again_is_caught(redis_url: str, herds: Herds) -> None:
    with Fleet(StalePauses(connect("memory://")), redis_url, herds).serving() as fleet:
        fleet.caller.submit("first")
        fleet.caller.hold("first")
        faults = pauses(fleet)
    assert any("while it was paused" in fault for fault in faults), faults


@durable
def test_of_32_parents_that_end_at_once_the_last_frees_the_child_for_one(fleet: Fleet) -> None:
    parents = [f"p{number}" for number in range(PROCESSES)]
    fleet.caller.submit(*parents, max_failures=1)
    for child, policy in (("waits", "block"), ("goes", "cancel"), ("runs", "ignore")):
        fleet.caller.submit(child, depends_on=parents[: PROCESSES // 2], on_parent_failure=policy)
        fleet.caller.submit(f"mixed_{child}", depends_on=parents, on_parent_failure=policy)
    held = fleet.herd([[("claim", {"job_id": parent})] for parent in parents])
    fences = [{name: reply["body"][name] for name in ("job_id", "epoch", "token")} for [reply] in held]
    # Who sends must be the holder: the herd has the same names in the same order.
    ends: list[Asked] = [("complete", fence) for fence in fences[: PROCESSES // 2]]
    ends += [("fail", {**fence, "retryable": False}) for fence in fences[PROCESSES // 2 :]]
    assert fleet.words(ends) == {"ok": PROCESSES}
    fleet.become(waits="ready", goes="ready", runs="ready")
    fleet.become(mixed_waits="blocked", mixed_goes="cancelled", mixed_runs="ready")
    assert fleet.words([CLAIM] * PROCESSES) == {"granted": 4, "none_available": PROCESSES - 4}


@durable
def test_no_child_submitted_as_its_parent_ends_is_forgotten(fleet: Fleet) -> None:
    pairs = PROCESSES // 2
    parents, children = [f"p{number}" for number in range(pairs)], [f"c{number}" for number in range(pairs)]
    fleet.caller.submit(*parents)
    held = fleet.herd([[("claim", {"job_id": parent})] for parent in parents])
    ends: list[Asked] = [
        ("complete", {name: reply["body"][name] for name in ("job_id", "epoch", "token")}) for [reply] in held
    ]
    submits: list[Asked] = [
        ("submit", {"job_id": child, "depends_on": [parent]}) for child, parent in zip(children, parents, strict=True)
    ]
    assert fleet.words([*ends, *submits]) == {"ok": PROCESSES}
    fleet.become(**dict.fromkeys(children, "ready"))
    assert fleet.words([CLAIM] * PROCESSES) == {"granted": pairs, "none_available": PROCESSES - pairs}


@durable
def test_of_32_jobs_that_supersede_each_other_one_waits_whoever_claims_meanwhile(fleet: Fleet) -> None:
    jobs = [f"job-{number}" for number in range(PROCESSES)]
    submits: list[Asked] = [("submit", {"job_id": job, "supersedes": "k"}) for job in jobs]
    words = fleet.words([*submits, *[CLAIM] * PROCESSES])
    assert words["ok"] == PROCESSES
    found = [read(fleet.store, job) for job in jobs]
    leased = [job for job in found if job.lease is not None]
    waiting = [job for job in found if job.state in WAITING]
    over = [job for job in found if job.state.terminal]
    assert len(leased) == words["granted"]
    assert len(waiting) <= 1
    assert len(waiting) + len(leased) >= 1
    assert all((job.state.value, job.epoch) == ("cancelled", 0) for job in over)
    assert len(over) == PROCESSES - len(leased) - len(waiting)
    by = {(job.why or "").removeprefix("superseded by ") for job in over}
    assert by <= set(jobs), "each names the one that came after it"
