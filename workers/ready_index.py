"""The ready index as the sweep finds it: what is not in it is offered again, but for what waits at a busy slot."""

from collections.abc import Sequence

from redis import Redis

from broker import index, index_drift, lock_waits, standing_aside, waking
from broker.documents import Job
from broker.index import Place
from broker.settlement import Context
from datastore.value import Value
from workers import together


class Offered(Value, frozen=True):
    """What was amiss."""

    new: list[Place]
    """Jobs that were not offered at all."""
    woken: int
    """Claims that waited, though there were jobs for them."""


def offer(context: Context, connection: Redis, jobs: Sequence[Job], *, now_ms: int) -> Offered:
    """Offer those of these that are ready and not offered as they should be, and wake whom they suit.

    Who waits at a slot that admits nobody stays aside.

    Raises:
      RedisError, DatastoreError: some may be offered; the next sweep goes on.
    """
    offered = {job.id: job for job in jobs if index.offered(job)}
    if not offered:
        return Offered([], 0)
    places = [Place.of(job, step_ms=context.rules.ageing_step_ms, now_ms=now_ms) for job in offered.values()]
    absent, elsewhere = index_drift.amiss(connection, places)
    missed = [offered[place.job_id] for place in absent]
    aside = standing_aside.found(context, connection, missed, now_ms=now_ms)
    new = [place for place in absent if place.job_id not in aside.job_ids]
    index_drift.mend(connection, places, [*new, *elsewhere])
    ready = [place.wants for place in places if place.job_id not in aside.job_ids]
    keys = aside.free * lock_waits.RETURN_MAX
    ready += lock_waits.bring_back(connection, keys, room=aside.room, now_ms=now_ms)
    return Offered(new, waking.wake(connection, ready, known=context.known_offers))


def withdraw_taken(context: Context, connection: Redis, places: Sequence[Place]) -> None:
    """Take out again what is not ready any more: a claim-next gives up after so many jobs it can't have.

    What can't be read now the next sweep offers.
    """
    with connection.pipeline(transaction=False) as pipe:
        for place in places:
            job = together.read(context, place.job_id)
            if job is None or not index.offered(job):
                index.withdraw(pipe, place)
        pipe.execute()
