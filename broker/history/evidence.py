"""Turns the records of one job into its effects: several answers to one request are one effect."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from broker.history.effects import READS, REMEMBERED, REMEMBERED_MAX, Effect, effect_of, seen_in
from broker.history.record import Record


class Evidence(NamedTuple):
    """What the records of one job prove."""

    effects: list[Effect]
    """In the order of epochs and stages."""
    redrives: list[tuple[int, Record]]
    """Redrives that may have taken effect though nobody was told so, with the earliest time of each, in order."""
    disagreements: list[tuple[Effect, Effect]]
    """Answers to one request that can't both be of the same effect."""


def gather(records: Sequence[Record], first_sent: Mapping[str, int]) -> Evidence:
    """The evidence in the records of one job, in any order. `first_sent`: when each request id was first sent."""
    effects: list[Effect] = []
    known: dict[tuple[str, ...], int] = {}
    disagreements: list[tuple[Effect, Effect]] = []
    for number, record in enumerate(records):
        if record.type != "ok" or record.op in READS:
            found = seen_in(record, number)
        else:
            found = effect_of(record, first_sent[record.request], number)
        if found is None:
            continue
        if record.type == "ok" and (record.op in REMEMBERED or record.op == "submit"):
            place = known.setdefault(_request_of(record), len(effects))
            if place < len(effects):
                earlier = effects[place]
                if _agree(earlier, found):
                    effects[place] = min(earlier, found, key=lambda effect: effect.end)
                    continue
                if _is_remembered(records, earlier, found):
                    disagreements.append((earlier, found))
        effects.append(found)
    effects.sort()
    return Evidence(effects, _silent_redrives(records, first_sent), disagreements)


def _request_of(record: Record) -> tuple[str, ...]:
    if record.op == "claim":  # a claim under the same id by another factory is another claim
        return (record.op, record.request, record.factory, record.incarnation)
    return (record.op, record.request)


def _agree(one: Effect, other: Effect) -> bool:
    if one.record.op in ("submit", "claim"):
        return (one.epoch, one.record.token) == (other.epoch, other.record.token)
    return (one.epoch, one.stage, one.state) == (other.epoch, other.stage, other.state)


def _is_remembered(records: Sequence[Record], one: Effect, other: Effect) -> bool:
    """Whether the job must still know the request: fewer others came in between than it remembers."""
    request = one.record.request
    others = sum(1 for record in records if record.op in REMEMBERED and record.request != request)
    return others + abs(one.epoch - other.epoch) < REMEMBERED_MAX


def _silent_redrives(records: Sequence[Record], first_sent: Mapping[str, int]) -> list[tuple[int, Record]]:
    redrives = [record for record in records if record.op == "redrive"]
    if not redrives:
        return []
    told = {record.request for record in redrives if record.type == "ok"}
    silent = {record.request: record for record in redrives if record.request not in told}
    return sorted(((first_sent[request], record) for request, record in silent.items()), key=lambda each: each[0])
