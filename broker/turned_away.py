"""What a claim-next is told before a job is looked for: its factory drains, its queue is paused, or one is at a limit.

A job popped from the index for nobody would have to be put back; a hundred claims would turn a whole queue over.
"""

from broker import quotas, registration
from broker.answers import Answer, Reason, Word
from broker.controls import Controls
from broker.limits import factory_limit, limit_key, queue_limit
from broker.messages import Claim
from broker.obstacles import Obstacle, not_claimable, paused
from broker.settle import failure
from broker.settlement import Context, Settlement, Wait
from broker.transitions import turned_away as factory_turned_away
from datastore import DatastoreError

_NONE_AVAILABLE = Word.NONE_AVAILABLE  # a name of its own: docs/decisions/0039


def turned_away(context: Context, claim: Claim, *, now_ms: int) -> Settlement | None:
    """The refusal, where there is one; with what the claim may wait for."""
    controls = context.heeded()
    if away := factory_turned_away(registration.known(controls, claim.factory_id), claim.incarnation, now_ms=now_ms):
        return Settlement(away)
    queue = claim.body.queue
    if (pause := controls.queue(queue).pause) is not None:
        return _refused(Obstacle(Reason.PAUSED, paused(queue, pause)), now_ms)
    limits = controls.limits()
    for name in (queue_limit(queue), factory_limit(claim.factory_id)) if limits else ():
        met = _at(context, controls, name, now_ms) if name in limits else None
        if met is not None:
            controls.note_full(name, met.detail)
            return _refused(met, now_ms, Wait(limit_key(name), until_ms=met.until_ms))
    return None


def refusal(context: Context, claim: Claim, *, now_ms: int) -> Settlement | None:
    """Why a claim-next gets no job now; also where the store can't say."""
    try:
        return turned_away(context, claim, now_ms=now_ms)
    except DatastoreError as error:
        return Settlement(failure(error))


def may_wait(answer: Answer) -> bool:
    """Whether a claim that was told this stays parked, if it said it would wait.

    Not where its own factory is full: what frees it is that factory's own doing, and it knows first.
    """
    if answer.reason is None:  # as of every grant
        return answer.word is _NONE_AVAILABLE
    if answer.word is _NONE_AVAILABLE or answer.reason is Reason.PAUSED:
        return True
    if answer.reason is not Reason.QUOTA:
        return False
    return not any(str(met.get("limit")).startswith("factory:") for met in answer.body.get("obstacles", ()))


def _at(context: Context, controls: Controls, name: str, now_ms: int) -> Obstacle | None:
    known = controls.known_full((name,))
    if known is not None:
        return Obstacle(Reason.QUOTA, known)
    return quotas.standing(context.store, context.entropy, name, controls.limits()[name], now_ms=now_ms)


def _refused(met: Obstacle, now_ms: int, *waits: Wait) -> Settlement:
    return Settlement(not_claimable([met], now_ms, {}), waits=waits)
