"""Turns the records of one job into its effects: several answers to one request are one effect."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from broker.history.effects import ANSWERED_ONCE, READS, REMEMBERED, REMEMBERED_MAX, Effect, effect_of, seen_in
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
    answers = _Answers(records, effects)
    for number, record in enumerate(records):
        if record.type != "ok" or record.op in READS:
            found = seen_in(record, number)
            if found is not None:
                effects.append(found)
            continue
        found = effect_of(record, first_sent[record.request], number)
        if found is not None and (record.op not in ANSWERED_ONCE or answers.is_new(found)):
            effects.append(found)
    effects.sort()
    return Evidence(effects, _silent_redrives(records, first_sent), answers.disagreements)


class _Answers:
    """Which effect each request had, so that a second answer to it is not taken for a second effect."""

    __slots__ = ("_by_id", "_effects", "_others", "_records", "disagreements")

    def __init__(self, records: Sequence[Record], effects: list[Effect]) -> None:
        self._records = records
        self._effects = effects
        self._by_id: dict[str, int] = {}
        self._others: dict[tuple[object, ...], int] = {}
        self.disagreements: list[tuple[Effect, Effect]] = []

    def is_new(self, found: Effect) -> bool:
        """Whether nothing was known of this effect; otherwise it was there by the earlier of the two answers."""
        here = len(self._effects)
        place = self._by_id.setdefault(found.record.request, here)
        if place == here:
            return True
        request, facts = _request_of(found.record), _facts(found)
        if request != _request_of(self._effects[place].record):  # the same id for something else
            place = self._others.setdefault(request, here)
        if place != here and facts != _facts(self._effects[place]):
            if _is_remembered(self._records, self._effects[place], found):
                self.disagreements.append((self._effects[place], found))
            place = self._others.setdefault((*request, *facts), here)
        if place == here:
            return True
        self._effects[place] = min(self._effects[place], found, key=_end)
        return False


def _end(effect: Effect) -> int:
    return effect.end


def _request_of(record: Record) -> tuple[str, ...]:
    if record.op == "claim":  # a claim under the same id by another factory is another claim
        return (record.op, record.request, record.factory, record.incarnation)
    return (record.op, record.request)


def _facts(effect: Effect) -> tuple[object, ...]:
    """What all answers to one request must agree on."""
    if effect.record.op == "submit":
        return ()
    if effect.record.op == "claim":
        return (effect.epoch, effect.record.token)
    return (effect.epoch, effect.stage, effect.state)


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
