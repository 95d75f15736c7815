"""Takes back what a claim was granted beyond what it asked for, and nobody was told of.

A claim that comes again tries every job that it was proposed before: one of them may be leased by it, and no search
show it yet. Of the others, which had gone by then, some may be free again.
"""

from collections.abc import Sequence

from broker import claiming
from broker.answers import Word
from broker.messages import Claim
from broker.settlement import Context, Settlement, raced
from datastore import DatastoreError


def taken_back(context: Context, claim: Claim, tries: Sequence[Settlement], *, now_ms: int) -> Sequence[Settlement]:
    """The same, with at most as many grants as were asked for: of those made just now the last ones are undone.

    Where the outcome of one is unknown all stand: the same request will come again. One that can't be undone, or that
    another copy of the claim has been told of meanwhile, stands as well, and is not told here.
    """
    if any(settled.answer.word is Word.OUTCOME_UNKNOWN for settled in tries):
        return tries
    spare = sum(bool(settled.answer.grants) for settled in tries) - (claim.body.count or 1)
    new = [position for position, settled in enumerate(tries) if settled.answer.word is Word.GRANTED]
    surplus = new[-spare:] if spare > 0 else []
    return [
        _undone(context, claim, settled, now_ms=now_ms) if position in surplus else settled
        for position, settled in enumerate(tries)
    ]


def _undone(context: Context, claim: Claim, granted: Settlement, *, now_ms: int) -> Settlement:
    job = granted.changes[-1].after
    try:
        changes = claiming.undo_grant(context, job, request_id=claim.request_id, now_ms=now_ms)
    except DatastoreError:  # it may stand: then it expires
        changes = ()
    return Settlement(raced(job.id), granted.changes + changes, granted.waits)
