"""One claim, several tries: how many jobs it is to try, and what became of each, gathered into one answer."""

from collections.abc import Mapping, Sequence

from msgspec import structs

from broker.answers import Answer, Reason, Word
from broker.messages import Claim
from broker.settlement import Settlement

STALE = frozenset({Word.CONFLICT, Word.NOT_CLAIMABLE, Word.NOT_FOUND})
"""What a proposed job may answer when its hint was stale: another one is tried instead of fighting for it."""


def wanted(claim: Claim, earlier: Settlement | None) -> int:
    """How many jobs a claim-next still asks for."""
    return (claim.body.count or 1) - (0 if earlier is None else len(earlier.answer.grants))


def shares(asked: Mapping[int, int], *, at_most: int) -> dict[int, int]:
    """How many jobs each of those may have that ask for so many: together `at_most`, but one each in any case.

    Who asks for less than the others get has all of it.
    """
    had: dict[int, int] = {}
    for left, position in zip(range(len(asked), 0, -1), sorted(asked, key=asked.__getitem__), strict=True):
        had[position] = min(asked[position], max(1, at_most // left))
        at_most -= had[position]
    return had


def gathered(claim: Claim, tries: Sequence[Settlement], *, remembered: bool) -> Settlement:
    """The answer of one round. `remembered`: the jobs were granted to this request before, and may be over."""
    if len(tries) == 1 and claim.body.count is None and not remembered:
        return tries[0]
    granted = [settled.answer for settled in tries if settled.answer.grants]
    unknown = next((settled.answer for settled in tries if settled.answer.word is Word.OUTCOME_UNKNOWN), None)
    last = tries[-1].answer
    if unknown is not None:  # the same request id will be told of all of them
        answer = unknown
    elif granted:
        answer = granted[0] if claim.body.count is None else _several(granted)
    elif remembered and last.word in STALE:
        answer = Answer(Word.REQUEST_EXPIRED, Reason.LEASE_OVER, last.body)
    else:
        answer = last
    changes = tuple(change for settled in tries for change in settled.changes)
    return Settlement(answer, changes, tuple(wait for settled in tries for wait in settled.waits))


def with_earlier(
    earlier: Settlement | None, later: Settlement | None, *, proposed: Sequence[str] = ()
) -> Settlement | None:
    """The answer of the last round, with what was granted and changed in those before.

    Where nobody knows what became of the jobs it `proposed`, the same request may yet have to answer for them. Without
    `later` another worker has the request in hand by now.
    """
    if later is None:  # another copy is answered; what this one was granted nobody else may know of
        return None if earlier is None else structs.replace(earlier, told_elsewhere=not earlier.answer.grants)
    answer, granted = later.answer, () if earlier is None else earlier.answer.grants
    if answer.word is Word.OUTCOME_UNKNOWN:
        later = structs.replace(later, maybe=(*(grant["job_id"] for grant in granted), *proposed))
    elif earlier is not None and granted:
        answer = _several([earlier.answer, answer])
    if earlier is None:
        return later
    return structs.replace(
        later, answer=answer, changes=earlier.changes + later.changes, waits=earlier.waits + later.waits
    )


def another(answer: Answer, *, proposed: int) -> bool:
    """Whether other jobs are to be tried: some of those `proposed`, as far as they are wanted, had gone, or can't be
    read at all.
    """
    too_few = proposed > 1 and 0 < len(answer.grants) < proposed
    return too_few or answer.word in STALE or answer.reason is Reason.CORRUPT


def _several(answers: Sequence[Answer]) -> Answer:
    """All grants in one answer, the last of each job: another copy may have been told of them meanwhile."""
    grants = {grant["job_id"]: grant for answer in answers for grant in answer.grants}
    again = all(answer.word is Word.REPLAYED for answer in answers if answer.grants)
    return Answer(Word.REPLAYED if again else Word.GRANTED, body={"grants": list(grants.values())})
