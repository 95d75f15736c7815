"""How many claims of one factory may wait: each is kept in Redis, whole, until its wait is over."""

from collections import Counter
from collections.abc import Sequence
from typing import cast

from redis import Redis
from redis.client import Pipeline

from broker.answers import Answer, Reason, put_off
from broker.entropy import Entropy
from broker.messages import Claim
from broker.wire_types import WAIT_MS_MAX

OF = "broker:waiting:of:"
"""Before the name of a factory: its waiting claims by the ends of their waits, broker time."""
LED = "broker:waiting:led:"
"""As above, those of them that name no offers: they have what their factory has registered."""
RETRY_AFTER_MS = 5_000
"""What is turned away comes back after this time and up to as much again."""


def note(pipe: Pipeline, factory_id: str, claim_id: str, ends_ms: int, *, led: bool) -> None:
    """Add the commands that count a waiting claim. The script that takes it out of the wait ends that.

    `led`: it names no offers.
    """
    pipe.zadd(OF + factory_id, {claim_id: ends_ms})
    if led:
        pipe.zadd(LED + factory_id, {claim_id: ends_ms})


def beyond(connection: Redis, claims: Sequence[Claim], *, at_most: int, now_ms: int) -> list[bool]:
    """Of each of these whether its factory has `at_most` others that wait, those before it among them.

    About: workers that look at the same moment do not see each other's.
    """
    factories = sorted({claim.factory_id for claim in claims})
    with connection.pipeline(transaction=False) as pipe:
        for factory in factories:
            pipe.zremrangebyscore(OF + factory, "-inf", now_ms)
            pipe.zremrangebyscore(LED + factory, "-inf", now_ms)
            pipe.zcount(OF + factory, "-inf", now_ms + WAIT_MS_MAX)  # no wait of ours ends later
        counted = cast(list[int], pipe.execute())[2::3]
    waiting = Counter(dict(zip(factories, counted, strict=True)))
    found = []
    for claim in claims:
        found.append(waiting[claim.factory_id] >= at_most)
        waiting[claim.factory_id] += not found[-1]
    return found


def turned_away(entropy: Entropy, *, resend: bool) -> Answer:
    """What a claim is told that may not wait."""
    return put_off(Reason.TOO_MANY_WAITING, entropy, resend=resend, after_ms=RETRY_AFTER_MS)
