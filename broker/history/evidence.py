"""Turns the records of one job into its effects: several answers to one request are one effect."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from broker.history.effects import ANSWERED_ONCE, OPERATORS, READS, REMEMBERED_MAX, Effect, effect_of, seen_in
from broker.history.record import Record

FirstSent: TypeAlias = Mapping[str, Mapping[str, int]]
"""Of each factory, when each of its request ids was first sent."""


class Evidence(NamedTuple):
    """What the records of one job prove."""

    effects: list[Effect]
    """In the order of epochs and stages."""
    redrives: list[tuple[int, Record]]
    """Redrives that may have taken effect though nobody was told so, with the earliest time of each, in order."""
    disagreements: list[tuple[Effect, Effect]]
    """Answers to one request that can't both be of the same effect."""


def gather(records: Sequence[Record], first_sent: FirstSent) -> Evidence:
    """The evidence in the records of one job, in any order."""
    effects: list[Effect] = []
    answers = _Answers(records, effects)
    for number, record in enumerate(records):
        if record.type != "ok" or record.op in READS:
            found = seen_in(record, number)
            if found is not None:
                effects.append(found)
            continue
        found = effect_of(record, first_sent[record.factory][record.request], number)
        if found is not None and (record.op not in ANSWERED_ONCE or answers.is_new(found)):
            effects.append(found)
    effects.sort()
    return Evidence(effects, _silent_redrives(records, first_sent), answers.disagreements)


class _Answers:
    """Which effect each request had, so that a second answer to it is not taken for a second effect."""

    __slots__ = ("_by_id", "_effects", "_operated", "_others", "_records", "disagreements")

    def __init__(self, records: Sequence[Record], effects: list[Effect]) -> None:
        self._records = records
        self._effects = effects
        self._operated: int | None = None
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
            if self._operated is None:  # hardly any history needs it
                self._operated = _operated(self._records)
            if _is_remembered(self._operated, self._effects[place], found):
                self.disagreements.append((self._effects[place], found))
            place = self._others.setdefault((*request, *facts), here)
        if place == here:
            return True
        self._effects[place] = min(self._effects[place], found, key=_end)
        return False


def _end(effect: Effect) -> int:
    return effect.end


def _request_of(record: Record) -> tuple[str, ...]:
    """A request id is its factory's own. A claim under the same id by another start of it is another claim."""
    if record.op == "claim":
        return (record.op, record.request, record.factory, record.incarnation)
    return (record.op, record.request, record.factory)


def _facts(effect: Effect) -> tuple[object, ...]:
    """What all answers to one request must agree on."""
    if effect.record.op == "submit":
        return ()
    if effect.record.op == "claim":
        return (effect.epoch, effect.record.token)
    return (effect.epoch, effect.stage, effect.state)


def _operated(records: Sequence[Record]) -> int:
    """How many requests of operators the job may have had, whether they were heard of or not."""
    return len({(record.request, record.factory) for record in records if record.op in OPERATORS})


def _is_remembered(operated: int, one: Effect, other: Effect) -> bool:
    """Whether the job must still know the request: fewer came in between than it remembers.

    Of those that change the epoch or end a lease an epoch has one each, however many were refused.
    """
    return operated + 2 * abs(one.epoch - other.epoch) + 1 < REMEMBERED_MAX


def _silent_redrives(records: Sequence[Record], first_sent: FirstSent) -> list[tuple[int, Record]]:
    redrives = [record for record in records if record.op == "redrive"]
    if not redrives:
        return []
    told = {_request_of(record) for record in redrives if record.type == "ok"}
    silent = {_request_of(record): record for record in redrives}
    waiting = (
        (first_sent[record.factory][record.request], record) for who, record in silent.items() if who not in told
    )
    return sorted(waiting, key=lambda each: each[0])
