"""Who fits whom, in O(log n): members sorted within sets of terms, for each queue.

The same structure twice: ready jobs by what they require, and parked claims by what they offer.
It is a hint: lost, stale or doubled entries cost time, and the sweep rebuilds it from the datastore.
"""

import json
from collections.abc import Callable, Iterable
from typing import cast

from redis import Redis
from redis.client import Pipeline

from broker.documents import PRIORITY_MAX, Job, State
from broker.matching import canonical, meets
from broker.scripts import Script

READY = "broker:ready"
"""Jobs: terms are requirements, the score is (priority, age)."""
PARKED = "broker:parked"
"""Claims that wait: terms are offers, the score is their arrival."""

_AGE_SPAN_MS = 1 << 41
"""Milliseconds up to the year 2039; together with 2,001 priorities below the 53 bits of a double."""


def sets_key(prefix: str, queue: str) -> str:
    """The sets of terms a queue has members in."""
    return f"{prefix}:{queue}:sets"


def members_key(prefix: str, queue: str, terms: str) -> str:
    """The sorted members of one set of terms (its canonical JSON)."""
    return f"{prefix}:{queue}:in:{terms}"


def encode_terms(terms: Iterable[str]) -> str:
    """A set of terms as one text; equal sets give equal texts."""
    return json.dumps(canonical(terms), separators=(",", ":"))


def decode_terms(text: bytes | str) -> tuple[str, ...]:
    """The terms in such a text."""
    return tuple(json.loads(text))


def ready_score(job: Job) -> int:
    """Lower is served first: a higher priority, then the older job."""
    return (PRIORITY_MAX - job.priority) * _AGE_SPAN_MS + min(job.created_ms, _AGE_SPAN_MS - 1)


def add(pipe: Pipeline, prefix: str, queue: str, terms: Iterable[str], member: str, score: float) -> None:
    """Add the commands that make `member` findable. Members first: a pop tidies away sets that look empty."""
    text = encode_terms(terms)
    pipe.zadd(members_key(prefix, queue, text), {member: score})
    pipe.sadd(sets_key(prefix, queue), text)


def remove(pipe: Pipeline, prefix: str, queue: str, terms: Iterable[str], member: str) -> None:
    """Add the command that takes `member` out."""
    pipe.zrem(members_key(prefix, queue, encode_terms(terms)), member)


def serving(offers: tuple[str, ...], sets: Iterable[bytes]) -> list[str]:
    """Of a queue's sets of requirements, those that a factory with `offers` meets."""
    return _fitting(sets, lambda requires: meets(offers, requires))


def awaiting(requires: tuple[str, ...], sets: Iterable[bytes]) -> list[str]:
    """Of a queue's sets of offers, those that meet `requires`."""
    return _fitting(sets, lambda offers: meets(offers, requires))


def offered(job: Job) -> bool:
    """Whether a claim-next may be shown this job."""
    return job.state is State.READY and job.hold is None


def ready_terms(connection: Redis, queue: str, *, at_most: int) -> list[tuple[str, tuple[str, ...]]]:
    """The queue and requirements of ready jobs, once for each job, up to so many of each set of requirements."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for terms in cast(set[bytes], connection.smembers(sets_key(READY, queue))):
        ready = connection.zcard(members_key(READY, queue, terms.decode()))
        found += [(queue, decode_terms(terms))] * min(at_most, ready)
    return found


def tidy(connection: Redis) -> None:
    """Forget sets of terms that have no members any more. The check and the removal are one step."""
    for prefix in (READY, PARKED):
        for key in connection.scan_iter(match=sets_key(prefix, "*"), count=1_000):
            name = key.decode()
            members = name.removesuffix("sets") + "in:"
            _TIDY.run(connection, [name], [members])


_TIDY = Script(
    """
-- KEYS: 1 sets of terms.  ARGV: prefix of their members
for _, terms in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if redis.call('EXISTS', ARGV[1] .. terms) == 0 then redis.call('SREM', KEYS[1], terms) end
end
"""
)


def _fitting(sets: Iterable[bytes], fits: Callable[[tuple[str, ...]], bool]) -> list[str]:
    return sorted(text.decode() for text in sets if fits(decode_terms(text)))


POP_BEST = """
-- The member with the lowest score over KEYS[from..]; taken out. Returns its key's position and the member.
local function pop_best(from)
  local best, best_key, best_score
  for i = from, #KEYS do
    local head = redis.call('ZRANGE', KEYS[i], 0, 0, 'WITHSCORES')
    if head[1] and (not best or tonumber(head[2]) < best_score) then
      best, best_key, best_score = head[1], KEYS[i], tonumber(head[2])
    end
  end
  if best then redis.call('ZREM', best_key, best) end
  return best
end
"""
