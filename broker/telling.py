"""Tells what happened: events derived from changes and from refusals, written to a bounded stream with the replies."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec
from msgspec import structs
from redis.client import Pipeline

from broker.answers import GOOD, Answer, Reason, Word
from broker.documents import READY, Job, Lease, Outcome, State
from broker.events import REASON_CHARS_MAX, STREAM, Claimed, Event, Told
from broker.messages import Claim, Envelope, FencedRequest, RenewMany
from broker.settlement import Change
from broker.telling_controls import CONTROLS, of_control

ENTRIES_MAX = 20_000
"""Entries kept, about; an entry holds the events of one batch, at most `ENTRY_EVENTS_MAX`. Some 80 MB at the most."""
ENTRY_BYTES_MAX = 4_000
"""Of an entry's text. What is longer goes into several: ordinary events are not, an event by itself can't be."""
ENTRY_EVENTS_MAX = 16
"""Several in one entry: the command costs a worker more than what it carries."""
EVENT_LEASES_MAX = 64
"""Leases in one event: about as much as the events of an entry."""
ENDINGS: Mapping[Outcome, str] = {
    Outcome.SUCCEEDED: "completed",
    **{outcome: outcome.value for outcome in Outcome if outcome is not Outcome.SUCCEEDED},
}
"""How the end of a run is called."""
MOVES: Mapping[State, str] = {
    State.BLOCKED: "blocked",
    State.SCHEDULED: "scheduled",
    State.READY: "ready",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
}
"""How a waiting job's move to another state is called."""
_LEASED = State.LEASED.value
STALE_ANSWERS = frozenset({Word.LEASE_LOST, Word.ALREADY_TERMINAL})


def of_request(request: Envelope, answer: Answer | None, changes: Sequence[Change], *, now_ms: int) -> list[Told]:
    """What one request has led to: its changes, and the refusal of a holder or claimant that came too late."""
    told: list[Told] = []
    for change in changes:
        before, granted = change.before, change.after.lease
        if before is not None and before.state is READY and granted is not None:
            told.append(_claimed(change.after, granted, now_ms))
        else:
            told += of_change(change, request, now_ms=now_ms)
    if answer is None:
        return told
    if type(request) is RenewMany:
        for lease, result in zip(request.body.leases, answer.body.get("results", ()), strict=False):
            if result["answer"] in STALE_ANSWERS:
                told.append(_refused("refused_stale", request, lease.job_id, lease.epoch, result, now_ms))
    elif answer.word not in GOOD:
        told += _refusal(request, answer, now_ms)
    elif type(request) in CONTROLS and (changed := of_control(request, answer, now_ms)) is not None:
        told.append(changed)
    return told


def of_renewals(request: Envelope, extended: Sequence[Job], *, now_ms: int) -> Iterator[Event]:
    """The leases that one message has extended, many in one event: readers are given one for each of them."""
    for start in range(0, len(extended), EVENT_LEASES_MAX):
        leases = [
            (job.id, job.epoch, lease.renewals, lease.expires_ms)
            for job in extended[start : start + EVENT_LEASES_MAX]
            if (lease := job.lease) is not None
        ]
        yield Event(
            event="renewed",
            at_ms=now_ms,
            factory_id=request.factory_id,
            request_id=request.request_id,
            state=State.LEASED.value,
            leases=leases,
        )


def of_change(change: Change, request: Envelope | None = None, *, now_ms: int) -> list[Event]:
    """What one write meant. Usually one event; two where a dead lease is taken over."""
    before, after = change.before, change.after
    if before is None:
        return [_event("submitted", after, request, now_ms, until_ms=after.not_before_ms)] if change.new else []
    told: list[Event] = []
    old, new = before.lease, after.lease
    if new is not None and (old is None or old.epoch != new.epoch):
        if old is not None:
            told.append(_end_of(old, after, request, now_ms))
        told.append(_of_holder("claimed", new, after, request, now_ms))
    elif new is not None and old is not None:
        told += _while_held(before, after, request, now_ms)
    elif old is not None:
        told.append(_end_of(old, after, request, now_ms))
    elif before.state is not after.state:
        name = _moved(before, after, now_ms)
        told.append(_event(name, after, request, now_ms, reason=after.why, until_ms=after.not_before_ms))
    if before.hold != after.hold:
        why = after.hold.reason if after.hold is not None else None
        told.append(_event("held" if after.hold is not None else "lifted", after, request, now_ms, reason=why))
    return told


def publish(pipe: Pipeline, events: Iterable[Told]) -> None:
    """Add the commands that write `events` to the stream; none where there are none."""
    for text in chain.from_iterable(map(_texts, _entries(list(events)))):
        # Not pipe.xadd: it builds and checks what is constant here, at twice the cost.
        pipe.execute_command("XADD", STREAM, "MAXLEN", "~", ENTRIES_MAX, "*", "e", text)  # type: ignore[no-untyped-call]


def _entries(told: list[Told]) -> Iterator[list[Told]]:
    """What goes together; what stands for many leases fills an entry by itself."""
    entry: list[Told] = []
    for event in told:
        if entry and (event.leases or entry[0].leases or len(entry) == ENTRY_EVENTS_MAX):
            yield entry
            entry = []
        entry.append(event)
    if entry:
        yield entry


def _texts(entry: Sequence[Told]) -> Iterator[bytes]:
    """An entry as it is written; in several where it is too long for one."""
    text = msgspec.json.encode(entry)
    if len(text) <= ENTRY_BYTES_MAX or len(halves := _halves(entry)) == 1:
        yield text
        return
    for half in halves:
        yield from _texts(half)


def _halves(entry: Sequence[Told]) -> Sequence[Sequence[Told]]:
    """An entry as two; one event as two of half of its leases each, or as it is where it has none to share out."""
    [first, *rest] = entry
    if rest:
        middle = len(entry) // 2
        return entry[:middle], entry[middle:]
    if not isinstance(first, Event) or (middle := len(first.leases) // 2) == 0:
        return (entry,)
    return [[structs.replace(first, leases=part)] for part in (first.leases[:middle], first.leases[middle:])]


def publish_changes(pipe: Pipeline, changes: Iterable[Change], *, now_ms: int) -> None:
    """The same for what time did, without a request."""
    publish(pipe, chain.from_iterable(of_change(change, now_ms=now_ms) for change in changes))


def _claimed(job: Job, lease: Lease, now_ms: int) -> Claimed:
    """The grant of a ready job to whoever asks."""
    return Claimed("claimed", job.id, now_ms, job.epoch, lease.factory_id, lease.request_id, _LEASED, lease.expires_ms)


def _end_of(lease: Lease, after: Job, request: Envelope | None, now_ms: int) -> Event:
    end = after.last_end if after.last_end is not None and after.last_end.epoch == lease.epoch else None
    expired = end is not None and end.outcome is Outcome.EXPIRED  # by time, whoever came along
    return _event(
        ENDINGS[end.outcome] if end is not None else "released",
        after,
        None if expired else request,
        now_ms,
        epoch=lease.epoch,
        holder=lease.factory_id,
        claim=lease.request_id,
        renewals=lease.renewals,
        reason=end.error if end is not None else None,
        until_ms=after.not_before_ms,
    )


def _while_held(before: Job, after: Job, request: Envelope | None, now_ms: int) -> Iterator[Event]:
    lease = after.lease
    assert before.lease is not None and lease is not None, "only for a lease that goes on"  # noqa: PT018
    if lease.renewals != before.lease.renewals:
        yield _of_holder("renewed", lease, after, request, now_ms, lease.renewals)
    if lease.stuck_ms != before.lease.stuck_ms:
        yield _of_holder("stuck" if lease.stuck_ms is not None else "unstuck", lease, after, request, now_ms)
    if after.cancel is not None and before.cancel is None:
        why, until_ms = after.cancel.reason, after.cancel.enforce_ms
        yield _event("cancel_asked", after, request, now_ms, holder=lease.factory_id, reason=why, until_ms=until_ms)


def _of_holder(
    name: str, lease: Lease, job: Job, request: Envelope | None, now_ms: int, renewals: int | None = None
) -> Event:
    """Of a lease that stands: nearly all that is told of, so without what `_event` looks for."""
    holder = lease.factory_id
    who = holder if request is None else request.factory_id
    return Event(
        event=name,
        job_id=job.id,
        at_ms=now_ms,
        epoch=job.epoch,
        factory_id=holder,
        request_id=lease.request_id if request is None else request.request_id,
        by=None if who == holder else who,
        state=job.state,
        until_ms=lease.expires_ms,
        renewals=renewals,
    )


def _moved(before: Job, after: Job, now_ms: int) -> str:
    if before.state.terminal:
        return "redriven"
    if after.state is State.FAILED and after.deadline_ms is not None and now_ms > after.deadline_ms:
        return Outcome.TIMED_OUT.value
    return MOVES.get(after.state, after.state.value)


def _event(
    name: str,
    job: Job,
    request: Envelope | None,
    now_ms: int,
    *,
    epoch: int | None = None,
    holder: str | None = None,
    claim: str | None = None,
    reason: str | None = None,
    until_ms: int | None = None,
    renewals: int | None = None,
) -> Event:
    lease_request = job.lease.request_id if job.lease is not None else None
    who = request.factory_id if request is not None else None
    return Event(
        event=name,
        job_id=job.id,
        at_ms=now_ms,
        epoch=job.epoch if epoch is None else epoch,
        factory_id=holder or who,
        request_id=request.request_id if request is not None else claim or lease_request,
        by=who if holder is not None and who != holder else None,
        state=job.state,
        reason=reason[:REASON_CHARS_MAX] if reason else None,
        until_ms=until_ms,
        renewals=renewals,
    )


def _refusal(request: Envelope, answer: Answer, now_ms: int) -> Iterator[Event]:
    """`refused_stale`: a holder that holds no more. `lost`: a claim of a named job that another holds or has won."""
    said = {"answer": answer.word.value, "reason": answer.reason and answer.reason.value, **answer.body}
    stale = answer.word in STALE_ANSWERS or answer.reason is Reason.EPOCH_FROM_THE_FUTURE
    if stale and isinstance(request, FencedRequest):
        yield _refused("refused_stale", request, request.body.job_id, request.body.epoch, said, now_ms)
    elif isinstance(request, Claim) and request.body.job_id is not None and answer.word is Word.CONFLICT:
        yield _refused("lost", request, request.body.job_id, said.get("epoch"), said, now_ms)


def _refused(
    name: str, request: Envelope, job_id: str, epoch: int | None, said: Mapping[str, Any], now_ms: int
) -> Event:
    return Event(
        event=name,
        job_id=job_id,
        at_ms=now_ms,
        epoch=epoch,
        factory_id=request.factory_id,
        request_id=request.request_id,
        holder=said.get("holder"),
        state=said.get("state") or said.get("outcome"),
        reason=said["reason"] or said["answer"],
    )
