"""Brokers that are broken on purpose: the simulation counts only because it catches each of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

from greenlet import getcurrent
from redis import Redis

from broker import batch, exclusion, keys, limits, repository, runs, schedules, settlement, submission
from broker.answers import Answer, Word
from broker.clock import Clock
from broker.documents import Job
from broker.fence import Fence, FenceLost, FenceOk, FenceResult, Loss
from broker.fence import check as sound_check
from broker.limits import Limits
from broker.limits import _capacity as sound_capacity
from broker.quotas import Starts
from broker.repository import Stale
from broker.schedules import fire as sound_fire
from broker.settlement import Change, Context, Settlement, Writer, judge_and_write, raced
from broker.settlement import _once as sound_once
from broker.transitions import Decision, decision, give_way
from datastore import Datastore, DatastoreError, Document
from datastore.confirm import WRITE_ID
from datastore.interface import Expected, Patch, UpdateResult
from tests.simulation.process import Process
from tests.simulation.world import Twin, sound
from tests.twins.forwarding import Forwarding, write_anyway
from tests.twins.ignores_etag import IgnoresEtag
from tests.twins.read_check_write import ReadCheckWrite
from workers import left_behind, shift
from workers.inflight import TAKEN_OVER, WIRES, slot_key
from workers.left_behind import own_leftovers as sound_own_leftovers
from workers.taking import Hand


@dataclass(frozen=True, slots=True)
class Broken:
    """One broken broker: what stands between its processes and the store, or what is put in place of a rule."""

    twin: Twin = sound
    rule: Callable[[], AbstractContextManager[object]] = nullcontext
    first: int = 0
    """The seed to begin with, where few worlds show what is broken."""


class Patched(Forwarding):
    """A store that changes what it is told to write."""

    def __init__(self, inner: Datastore, change: Callable[[Patch], Patch]) -> None:
        super().__init__(inner)
        self._change = change

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        return super().update_if_match(id, partition_key, expected, self._change(patch))


def _read_check_write(store: Datastore, process: Process) -> Datastore:
    def gap(_version: object) -> None:
        if getcurrent().parent is not None:  # not a late write, which no process waits for
            process.wait(30)

    return ReadCheckWrite(store, gap=gap)


def _ignores_etag(store: Datastore, _process: Process) -> Datastore:
    return IgnoresEtag(store)


class Unconditional(Forwarding):
    """Looks, takes its time, and writes whatever has happened meanwhile."""

    def __init__(self, inner: Datastore, process: Process) -> None:
        super().__init__(inner)
        self._process = process

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        del expected  # the bug
        if getcurrent().parent is not None:
            self._process.wait(1_000)
        return write_anyway(self.inner, id, partition_key, patch)


def _reaps_anything(store: Datastore, process: Process) -> Datastore:
    return Unconditional(store, process) if process.name.startswith("s") else store


def _resets_the_epoch(store: Datastore, _process: Process) -> Datastore:
    return Patched(store, lambda patch: {**patch, "epoch": 0} if patch.get("lease", 0) is None else patch)


def _forgets_requests(store: Datastore, _process: Process) -> Datastore:
    return Patched(store, lambda patch: {**patch, "recent_requests": []} if "recent_requests" in patch else patch)


def _name_only(job: Job, fence: Fence) -> FenceResult:
    if job.lease is None or job.recent(fence.request_id, fence.factory_id) is not None:
        return sound_check(job, fence)
    return FenceOk() if job.lease.factory_id == fence.factory_id else FenceLost(Loss.SUPERSEDED)


def _unconfirmed(
    store: Datastore, id: str, partition_key: str, expected: Expected, patch: Patch, *, write_id: str
) -> UpdateResult:
    """Whatever the store says is believed."""
    return store.update_if_match(id, partition_key, expected, {**patch, WRITE_ID: write_id})


def _once(context: Context, job: Job, judged: Decision, write: Writer) -> Settlement | Stale:
    """A conflict is a lost race; nobody looks who wrote the version it met."""
    result = sound_once(context, job, judged, write)
    return Settlement(raced(job.id)) if isinstance(result, Stale) else result


@contextmanager
def _conflict_is_lost() -> Iterator[None]:
    with patch.object(repository, "confirmed_update", _unconfirmed), patch.object(settlement, "_once", _once):
        yield


def _in_place_of(module: object, name: str, broken: object) -> Callable[[], AbstractContextManager[object]]:
    return lambda: patch.object(module, name, broken)


def _believes_any_read(holder: Any, *, leased: object, **_: object) -> bool:
    return bool(holder.confirmed) and leased != holder.claim


def _one_round(context: Context, asked: Sequence[batch.Asked], *, clock: Clock) -> list[Settlement | None]:
    """What a transaction came to is believed before it is committed."""
    results: list[Settlement | None] = []
    with suppress(DatastoreError), context.store.batch():
        results = batch._in_group(context, asked, clock=clock)
    return results + [Settlement(Answer(Word.OUTCOME_UNKNOWN))] * (len(asked) - len(results))


def _one_more(known: Limits, name: str) -> int:
    return sound_capacity(known, name) + 1


def _alive(context: Context, owner_id: str, *_: object, **__: object) -> Job | None:
    """Who has a key is looked at, and not written on."""
    owner = repository.read_job(context.store, owner_id)
    return None if owner is None or owner.state.terminal else owner


def _superseded(context: Context, job_id: str, by: str, now_ms: int, **_: object) -> tuple[Change, ...]:
    """What a read shows to run is left alone."""
    return judge_and_write(context, job_id, partial(give_way, why=by, now_ms=now_ms)).changes if job_id else ()


def _fire(context: Context, document: Document, *, now_ms: int) -> Settlement:
    """Moves the schedule on first, and makes its jobs afterwards."""
    moved = patch.object(submission, "submit", lambda *_, **__: Settlement(Answer(Word.OK)))
    with moved:
        settled = sound_fire(context, document, now_ms=now_ms)
    sound_fire(context, document, now_ms=now_ms)
    return settled


def _own_leftovers(connection: Redis, worker: str, **more: Any) -> Hand:
    """Into a list that has the same name as before."""
    aside = f"{worker}~aside"
    hand = sound_own_leftovers(connection, aside, **more)
    for wire in WIRES:
        while connection.lmove(slot_key(aside, wire, TAKEN_OVER), slot_key(worker, wire, TAKEN_OVER), "LEFT", "RIGHT"):
            pass
    return hand


@contextmanager
def _one_session() -> Iterator[None]:
    """A worker that comes back fills the same lists again."""
    same_name = patch.object(shift, "session_name", lambda worker, _number: worker)
    with same_name, patch.object(left_behind, "own_leftovers", _own_leftovers):
        yield


TWINS: Mapping[str, Broken] = {
    "read, check, write": Broken(_read_check_write),
    "etag ignored": Broken(_ignores_etag),
    "reap without condition": Broken(_reaps_anything),
    "epoch reset": Broken(_resets_the_epoch),
    "request ids forgotten": Broken(_forgets_requests),
    "no fence, name only": Broken(rule=_in_place_of(decision, "check", _name_only)),
    "412 taken as lost": Broken(rule=_conflict_is_lost),
    "a stale read frees a lock": Broken(rule=_in_place_of(exclusion, "removable", _believes_any_read)),
    "a key's owner only looked at": Broken(rule=_in_place_of(keys, "_alive", _alive), first=300),
    "superseded ones only looked at": Broken(rule=_in_place_of(keys, "_superseded", _superseded)),
    "one unit too many": Broken(rule=_in_place_of(limits, "_capacity", _one_more)),
    "starts not counted": Broken(rule=_in_place_of(Starts, "take", lambda *_, **__: None)),
    "a replaced schedule owes nothing": Broken(rule=_in_place_of(schedules, "_owed", lambda *_: ()), first=80),
    "a schedule moved on first": Broken(rule=_in_place_of(schedules, "fire", _fire)),
    "a transaction believed before its commit": Broken(rule=_in_place_of(batch, "_one_round", _one_round)),
    "any read ends a run": Broken(rule=_in_place_of(repository, "stands", lambda *_, **__: True), first=600),
    "lists keep their names": Broken(rule=_one_session),
    "runs not made up for": Broken(rule=_in_place_of(runs, "record_last_end", lambda *_, **__: None), first=300),
}


@contextmanager
def broken(name: str) -> Iterator[Twin]:
    """The world of a twin, while the block runs."""
    twin = TWINS[name]
    with twin.rule():
        yield twin.twin
