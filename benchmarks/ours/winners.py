"""Reads the store after a row: each granted job has been granted once, at epoch 1, and has one run, or its lease."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.processes import Violation
from broker.client import Client
from datastore import Datastore

HELD_OR_DONE = ("leased", "succeeded")
PAGE = 500
SAMPLES_MAX = 50


def by_store(store: Datastore) -> int:
    """Count winners in a store that this process can open."""
    held, done = (list(_documents(store, {"kind": "job", "state": state})) for state in HELD_OR_DONE)
    runs = Counter(body["job_id"] for body in _documents(store, {"kind": "run"}))
    if several := [job for job, count in runs.items() if count != 1]:
        raise Violation(f"{len(several)} jobs have more than one run, such as {several[0]}")
    if len(runs) != len(done):
        raise Violation(f"{len(done)} jobs were completed, but {len(runs)} runs are recorded")
    return sum(map(_single, [*held, *done]))


def by_client(url: str) -> int:
    """Count winners by asking the broker; the runs of some of them are looked at too."""
    with Client.connect(url, factory_id="bench-judge", timeout_ms=60_000) as client:
        found = [job for state in HELD_OR_DONE for job in _listed(client, state)]
        for job in found[:: max(1, len(found) // SAMPLES_MAX)]:
            runs = client.runs(job["id"]).body["runs"]
            if len(runs) != 1:
                raise Violation(f"{job['id']} was granted once and has {len(runs)} runs")
        return sum(map(_single, found))


def _single(job: Mapping[str, Any]) -> int:
    if job["epoch"] != 1:
        raise Violation(f"{job.get('id')} was asked for once and is at epoch {job['epoch']}")
    return 1


def _documents(store: Datastore, filter: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    cursor = None
    while True:
        page = store.find(filter, limit=PAGE, cursor=cursor)
        for document in page.documents:
            yield {"id": document.id, "job_id": document.partition_key, **document.body}
        cursor = page.cursor
        if cursor is None:
            return


def _listed(client: Client, state: str) -> Iterator[Mapping[str, Any]]:
    cursor = None
    while True:
        reply = client.jobs(state=state, limit=PAGE, cursor=cursor)
        yield from reply.body["jobs"]
        cursor = reply.body["cursor"]
        if cursor is None:
            return
