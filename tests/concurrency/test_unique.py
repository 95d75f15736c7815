"""Unique keys: one live job at most, whatever 32 processes do at once, and whoever dies half-way."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from broker import coordinator, submission
from broker.coordinator import Context
from broker.documents import WAITING, Job
from broker.keys import key_id
from broker.messages import Submit, SubmitBody, Unique
from broker.repository import find_documents
from datastore import (
    Body,
    CreateResult,
    Datastore,
    Expected,
    Ok,
    Patch,
    Unavailable,
    UpdateResult,
    connect,
)
from tests.concurrency.race import NOW, at_once, context, new_job, outcome, read
from tests.concurrency.submitters import submit
from tests.contract.racing import open_store
from tests.processes import start
from tests.twins.forwarding import Forwarding
from tests.twins.ignores_etag import IgnoresEtag

ROOT = str(Path(__file__).parents[2])
PROCESSES = 32


class Interrupted(Forwarding):
    """Before a write of one document, something else happens, once."""

    def __init__(self, inner: Datastore, id: str, act: Callable[[], None]) -> None:
        super().__init__(inner)
        self._id = id
        self._act: Callable[[], None] | None = act

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        self._interrupt(id)
        return super().create(id, partition_key, body)

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        self._interrupt(id)
        return super().update_if_match(id, partition_key, expected, patch)

    def _interrupt(self, id: str) -> None:
        if id == self._id and self._act is not None:
            act, self._act = self._act, None
            act()


class NoMark(Forwarding):
    """The broken twin: who takes the key of a job that is over does not write on that job."""

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        if "key_passed_to" in patch:
            found = self.inner.read(id, partition_key)
            assert isinstance(found, Ok)
            return found
        return super().update_if_match(id, partition_key, expected, patch)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Datastore]:
    opened = connect("memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'jobs.db'}")
    yield opened
    opened.close()


def live(store: Datastore) -> list[str]:
    jobs = map(Job.from_document, find_documents(store, {"kind": "job"}))
    return [job.id for job in jobs if not job.state.terminal]


def fights(opener: str, path: str, policy: str, keys: list[str]) -> list[Counter[str]]:
    argv = [sys.executable, "-m", "tests.concurrency.submitters", opener, path, str(PROCESSES), policy, *keys]
    process = start(argv, env={"PYTHONPATH": ROOT})
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    return [Counter(json.loads(line)) for line in output.splitlines()]


def of_key(store: Datastore, key: str) -> list[str]:
    jobs = map(Job.from_document, find_documents(store, {"kind": "job"}))
    return [job.id for job in jobs if job.unique == key and not job.state.terminal]


@pytest.mark.parametrize(("policy", "others"), [("reject", "not_unique"), ("join", "joined"), ("replace", "ok")])
def test_of_32_processes_with_one_key_one_job_lives(tmp_path: Path, policy: str, others: str) -> None:
    url, keys = f"sqlite:///{tmp_path}/jobs.db", ["k1", "k2", "k3"]
    connect(url).close()
    for words in fights("datastore:connect", url, policy, keys):
        assert words.total() == PROCESSES
        # Replayed: another found the key taken and its job not made yet, and made it.
        taken = words["ok"] + words["replayed"]
        assert taken == (PROCESSES if policy == "replace" else 1), words
        assert set(words) <= {"ok", "replayed", others}
    store = open_store("datastore:connect", url)
    assert [len(of_key(store, key)) for key in keys] == [1, 1, 1]
    store.close()


def test_never_two_live_whatever_32_processes_submit_cancel_and_redrive(tmp_path: Path) -> None:
    url, keys = f"sqlite:///{tmp_path}/jobs.db", [f"k{number}" for number in range(4)]
    connect(url).close()
    fights("datastore:connect", url, "churn", keys)
    store = open_store("datastore:connect", url)
    assert all(len(of_key(store, key)) <= 1 for key in keys)
    redriven = [job for job in find_documents(store, {"kind": "job"}) if job.body.get("key_passed_to")]
    assert len(redriven) > PROCESSES, "hardly a key changed hands: it tests nothing"
    store.close()


@pytest.mark.cosmos
def test_of_32_processes_with_one_key_one_job_lives_on_cosmos(cosmos_url: str) -> None:
    connect(cosmos_url).close()
    [words] = fights("datastore:connect", cosmos_url, "reject", ["k1"])
    assert (words["ok"] + words["replayed"], words.total()) == (1, PROCESSES)
    store = open_store("datastore:connect", cosmos_url)
    assert len(of_key(store, "k1")) == 1
    store.close()


def test_on_a_store_that_ignores_the_etag_both_of_two_get_the_key_every_time(store: Datastore) -> None:
    broken = IgnoresEtag(store)
    for number in range(20):
        key = f"k{number}"
        second = context(broken)
        first = context(Interrupted(broken, key_id("unique", key), lambda: None))
        submit(first, f"{key}-0", key, "reject")
        coordinator.cancel(first, f"{key}-0", request_id="x", by="f", now_ms=NOW)  # the key is there, and free
        raced = context(Interrupted(broken, key_id("unique", key), _submits(second, f"{key}-b", key)))
        assert submit(raced, f"{key}-a", key, "reject") == "ok"
        assert len(of_key(store, key)) == 2


def test_of_two_that_read_a_free_key_one_gets_it_every_time(store: Datastore) -> None:
    for number in range(20):
        key = f"k{number}"
        submit(context(store), f"{key}-0", key, "reject")
        coordinator.cancel(context(store), f"{key}-0", request_id="x", by="f", now_ms=NOW)
        raced = context(Interrupted(store, key_id("unique", key), _submits(context(store), f"{key}-b", key)))
        assert submit(raced, f"{key}-a", key, "reject") == "not_unique"
        assert of_key(store, key) == [f"{key}-b"]


def _submits(own: Context, job_id: str, key: str) -> Callable[[], None]:
    def act() -> None:
        submit(own, job_id, key, "reject")

    return act


def test_a_job_redriven_as_another_takes_its_key_does_not_live_beside_it(store: Datastore) -> None:
    assert _redriven_in_between(store) == ("not_unique", ["b"])


def test_without_a_mark_on_the_job_that_is_over_both_live_every_time(store: Datastore) -> None:
    assert _redriven_in_between(NoMark(store)) == (None, ["a", "b"])


def _redriven_in_between(store: Datastore) -> tuple[str | None, list[str]]:
    """`a` is over. It is redriven, has its key already, and before it is written `b` is submitted."""
    own = context(store)
    assert submit(own, "a", "k", "reject") == "ok"
    coordinator.cancel(own, "a", request_id="x", by="f", now_ms=NOW)

    def others() -> None:
        assert submit(own, "b", "k", "reject") == "ok"

    settled = coordinator.redrive(context(Interrupted(store, "a", others)), "a", request_id="r", by="f", now_ms=NOW)
    return outcome(settled).reason, sorted(live(store))


class DiesBeforeTheJob(Forwarding):
    """Whoever submits `id` dies with the key taken and the job not made."""

    def __init__(self, inner: Datastore, id: str) -> None:
        super().__init__(inner)
        self._id = id

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        if id == self._id:
            raise Unavailable("died")
        return super().create(id, partition_key, body)


def test_a_submission_that_died_with_the_key_is_finished_by_the_next(store: Datastore) -> None:
    body = SubmitBody(job_id="a", unique=Unique(key="k"), payload=7)
    request = Submit(request_id="s", factory_id="f", incarnation="i", instance="x", body=body)
    died = submission.submit(context(DiesBeforeTheJob(store, "a")), request, now_ms=NOW)
    assert outcome(died).word == "outcome_unknown"
    assert submit(context(store), "b", "k", "reject") == "not_unique"
    assert (live(store), read(store, "a").unique) == (["a"], "k")
    assert outcome(submission.submit(context(store), request, now_ms=NOW)).word == "replayed"
    coordinator.cancel(context(store), "a", request_id="x", by="f", now_ms=NOW)
    assert submit(context(store), "b", "k", "reject") == "ok"


def test_a_redrive_that_finishes_a_submission_which_died_with_the_key_tells_of_its_job(store: Datastore) -> None:
    assert submit(context(store), "over", "k", "reject") == "ok"
    coordinator.cancel(context(store), "over", request_id="x", by="f", now_ms=NOW)
    body = SubmitBody(job_id="a", unique=Unique(key="k"))
    request = Submit(request_id="s", factory_id="f", incarnation="i", instance="x", body=body)
    died = submission.submit(context(DiesBeforeTheJob(store, "a")), request, now_ms=NOW)
    assert outcome(died).word == "outcome_unknown"
    refused = coordinator.redrive(context(store), "over", request_id="r", by="f", now_ms=NOW)
    assert outcome(refused).reason == "not_unique"
    assert [(change.after.id, change.new) for change in refused.changes] == [("a", True)]


def test_of_32_that_supersede_each_other_at_once_one_waits(store: Datastore) -> None:
    for number in range(5):
        key = f"k{number}"
        at_once([partial(new_job, store, supersedes=key) for _ in range(PROCESSES)])
        jobs = [job for job in map(Job.from_document, find_documents(store, {"kind": "job"})) if job.supersedes == key]
        assert len(jobs) == PROCESSES
        [waiting] = [job for job in jobs if job.state in WAITING]
        assert all(job.created_ms <= waiting.created_ms for job in jobs)
