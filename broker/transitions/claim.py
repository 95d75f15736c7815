"""Claiming: a free job, or one whose lease has died."""

from typing import Any

from msgspec import structs

from broker.answers import Answer, Reason, Word
from broker.controls import Surroundings
from broker.documents import CLAIM, LEASED, Job, Lease, State, run_id
from broker.obstacles import Situation, not_claimable, obstacles
from broker.transitions.decision import Decision, Refuse, Replay, Rules, Write, held_by, remember
from broker.transitions.factory import turned_away
from broker.transitions.timer import expire, expired
from datastore.value import Value

_GRANTED = Word.GRANTED  # a name of its own: docs/decisions/0039


class Claimant(Value, frozen=True):
    """Who asks, under which request, and the token to hand out if it wins."""

    factory_id: str
    incarnation: str
    request_id: str
    token: str
    instance: str | None = None
    waited: bool = False
    """This copy of the request was parked: since then another may have been told."""
    offers: tuple[str, ...] = ()
    ttl_ms: int | None = None
    deadline_ms: int | None = None
    """A grant that is written later than this, broker time, is none (I7)."""

    def late(self, now_ms: int) -> bool:
        """Whether what is written now would be no grant."""
        return self.deadline_ms is not None and now_ms > self.deadline_ms


def claim(job: Job, who: Claimant, *, now_ms: int, rules: Rules, around: Surroundings | None = None) -> Decision:
    """Grant the job at the next epoch, or say everything that stands in the way.

    A lease is taken over only once `expires_ms` and the skew allowance are past; the old run ends as expired.
    """
    lease = job.lease
    if lease is not None and _same_request(lease, who):
        return Replay(granted(job, lease, now_ms=now_ms, word=Word.REPLAYED))
    # Neither is there of a job that is claimed for the first time.
    if (job.last_end or job.recent_requests) and job.claimed_before(who.request_id, who.factory_id):
        return Refuse(Answer(Word.REQUEST_EXPIRED, Reason.LEASE_OVER, held_by(job, now_ms)))
    if lease is not None and not expired(lease, now_ms=now_ms, rules=rules):
        return Refuse(Answer(Word.CONFLICT, Reason.HELD, held_by(job, now_ms)))
    changes: dict[str, Any] = {} if lease is None else dict(expire(job, lease, now_ms=now_ms))
    around = around or Surroundings()
    if (away := turned_away(around.factory, who.incarnation, now_ms=now_ms)) is not None:
        return Refuse(structs.replace(away, body={**held_by(job, now_ms), **away.body}))
    state: State = changes.get("state", job.state)
    standing = obstacles(
        Situation(job, state, who.offers, now_ms, around.queue, around.factory, claimant=who.factory_id)
    )
    if standing:
        refusal = not_claimable(standing, now_ms, held_by(job, now_ms))
        # A lease that died at its cap, or under a cancel, is worth writing down even though this claim loses.
        worth_writing = changes and standing[0].reason is Reason.TERMINAL
        return Write({**changes, "updated_ms": now_ms}, refusal) if worth_writing else Refuse(refusal)
    ttl_ms = who.ttl_ms or job.ttl_ms or rules.ttl_ms
    taken = _lease(job, who, now_ms=now_ms, ttl_ms=ttl_ms, units=around.units)
    changes |= {
        "state": LEASED,
        "epoch": taken.epoch,
        "lease": taken,
        "not_before_ms": None,
        "last_run_id": run_id(job.id, taken.epoch),
        "updated_ms": now_ms,
    }
    if job.epoch:
        changes |= _keep_last_claim(job)
    if job.reserved is not None:
        changes["reserved"] = None
    return Write(changes, granted(job, taken, now_ms=now_ms, word=_GRANTED))


def granted(job: Job, lease: Lease, *, now_ms: int, word: Word) -> Answer:
    """The holder's answer; the only one that carries the token.

    `remaining_ms` is what is left of the lease as the answer is made: a replay must not promise a whole ttl again (I9).
    """
    left_ms = lease.expires_ms - now_ms
    return Answer(
        word,
        body={
            "job_id": job.id,
            "queue": job.queue,
            "epoch": lease.epoch,
            "token": lease.token,
            "ttl_ms": lease.ttl_ms,
            "remaining_ms": left_ms if left_ms > 0 else 0,
            "expires_ms": lease.expires_ms,
            "deadline_ms": job.deadline_ms,
            "run_deadline_ms": lease.run_deadline_ms,
            "failures": job.counters.failures,
        },
    )


def told_again(lease: Lease, who: Claimant) -> dict[str, Any]:
    """What the replay of a grant writes: the client that is told of it now is the one to hear of a cancel, and is not
    taken for one that does not read.

    It is written even where it is nothing: a read alone may show a lease that is over.
    """
    if who.waited or who.instance is None:
        return {}
    return {"lease": structs.replace(lease, instance=who.instance, asked_again=True)}


def _keep_last_claim(job: Job) -> dict[str, Any]:
    """The end of the new lease overwrites `last_end`; a stray copy of an earlier claim must still be known (I6)."""
    earlier = job.lease or job.last_end
    if earlier is None:
        return {}
    return remember(job, request_id=earlier.request_id, by=earlier.factory_id, op=CLAIM, state=LEASED)


def _same_request(holder: Lease, who: Claimant) -> bool:
    return (holder.request_id, holder.factory_id, holder.incarnation) == (
        who.request_id,
        who.factory_id,
        who.incarnation,
    )


def _lease(job: Job, who: Claimant, *, now_ms: int, ttl_ms: int, units: tuple[str, ...]) -> Lease:
    return Lease(
        factory_id=who.factory_id,
        incarnation=who.incarnation,
        epoch=job.epoch + 1,
        token=who.token,
        request_id=who.request_id,
        granted_ms=now_ms,
        expires_ms=now_ms + ttl_ms,
        ttl_ms=ttl_ms,
        run_deadline_ms=None if job.run_timeout_ms is None else now_ms + job.run_timeout_ms,
        limits=units,
        instance=who.instance,
    )
