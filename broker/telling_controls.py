"""What an operator changed for the whole fleet, as events: queues, limits, factories, schedules."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from broker.answers import Answer, Word
from broker.events import REASON_CHARS_MAX, Event
from broker.messages import (
    ChangeSchedule,
    DrainFactory,
    Envelope,
    PauseQueue,
    PutSchedule,
    RegisterFactory,
    RemoveFactory,
    RemoveLimit,
    ResumeFactory,
    ResumeQueue,
    SetLimit,
)


class _Row(NamedTuple):
    event: str
    """The event's name; `{to}` is what the request asked for."""
    kind: str
    """What is changed; the answer names which one in the field of this name, or in `named`."""
    named: str | None = None


CONTROLS: Mapping[type[Envelope], _Row] = {
    PauseQueue: _Row("queue_paused", "queue"),
    ResumeQueue: _Row("queue_resumed", "queue"),
    SetLimit: _Row("limit_set", "limit"),
    RemoveLimit: _Row("limit_removed", "limit"),
    RegisterFactory: _Row("factory_registered", "factory"),
    DrainFactory: _Row("factory_draining", "factory"),
    ResumeFactory: _Row("factory_resumed", "factory"),
    RemoveFactory: _Row("factory_removed", "factory"),
    PutSchedule: _Row("schedule_set", "schedule", "name"),
    ChangeSchedule: _Row("schedule_{to}", "schedule", "name"),
}


def of_control(request: Envelope, answer: Answer, now_ms: int) -> Event | None:
    """The event of a request that an operator made of the fleet, once it was carried out; of a replay there is none."""
    row = CONTROLS.get(type(request))
    if row is None or answer.word is not Word.OK:
        return None
    said = answer.body
    name = said[row.named or row.kind]
    factory = name if row.kind == "factory" else None
    drain = said.get("drain") or {}
    return Event(
        event=row.event.format(to=said.get("state")),
        subject=f"{row.kind} {name}",
        at_ms=now_ms,
        factory_id=factory or request.factory_id,
        by=request.factory_id if factory not in (None, request.factory_id) else None,
        request_id=request.request_id,
        reason=_why({**said, **drain}),
        until_ms=drain.get("until_ms"),
    )


def _why(said: Mapping[str, Any]) -> str | None:
    """What was said of it, or what it is from now on."""
    capacity, rate = said.get("capacity"), said.get("rate")
    known = [
        said.get("why") or said.get("reason"),
        None if "limit" not in said or capacity is None else f"{capacity} at once",
        None if rate is None else f"{rate['count']} per {rate['per_ms']} ms",
        f"{len(said['ended'])} leases ended" if said.get("ended") else None,
    ]
    return ", ".join(each for each in known if each)[:REASON_CHARS_MAX] or None
