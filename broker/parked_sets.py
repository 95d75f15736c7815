"""Sets of waiting claims that offer the same. What they offer names a set; where that is long, its digest does.

A name goes to and fro with every job that wakes somebody. The text that a digest stands for lies in a hash of its
queue, and is read once by whoever looks for claims: it says the same for ever.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias, cast

from redis import Redis
from redis.client import Pipeline

from broker import index
from broker.index import PARKED
from broker.matching import Offered
from broker.scripts import Script
from datastore.decoding import UNREADABLE, from_json

Line: TypeAlias = tuple[str, Offered]
"""The name of a set, and what those in it offer."""

DIGEST = "#"
"""Before the digest of a text, which is JSON and never begins so."""
TEXT_MAX = 64
"""Bytes of a text that is its own name."""
KEPT_MAX = 4_096
"""Texts that are kept, up to 12 KB each; with more all are forgotten, and read once more."""
READ_AT_ONCE = 256
"""Texts of one answer, of some 3 MB at the most."""

FORGET_EMPTY = (
    f"local PARKED = '{PARKED}'\n"
    + """
-- Forget a set of waiting claims that nobody is in any more, by its key: the next one to wait there names it again.
local function forget_empty(parked_in)
  local queue, name = string.match(parked_in, '^' .. PARKED .. ':([^:]*):in:(.*)$')
  if not name or redis.call('EXISTS', parked_in) == 1 then return end
  redis.pcall('SREM', PARKED .. ':' .. queue .. ':sets', name)
  redis.pcall('HDEL', PARKED .. ':' .. queue .. ':texts', name)
end
"""
)


def texts_key(queue: str) -> str:
    """What the names of a queue's sets stand for that are digests."""
    return f"{PARKED}:{queue}:texts"


def set_name(text: str) -> str:
    """What the set of those who offer this is known by."""
    if len(text) <= TEXT_MAX:
        return text
    return DIGEST + hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def members_key(queue: str, offers: Iterable[str]) -> str:
    """The sorted set of those who wait in this queue and offer this."""
    return index.members_key(PARKED, queue, set_name(index.encode_terms(offers)))


def park(pipe: Pipeline, queue: str, offers: Iterable[str], claim_id: str, score: float) -> None:
    """Add the commands that make a waiting claim findable. Its place comes first: a set that is empty is forgotten."""
    text = index.encode_terms(offers)
    name = set_name(text)
    pipe.zadd(index.members_key(PARKED, queue, name), {claim_id: score})
    if name != text:
        pipe.hset(texts_key(queue), name, text)
    pipe.sadd(index.sets_key(PARKED, queue), name)


def awaiting(terms: str, lines: Iterable[Line]) -> list[tuple[str, int]]:
    """Of sets of claims, those that meet a job's requirements, and how well each meets its preferences."""
    wants = index.decode_wants(terms)
    if wants is None:
        return []
    return [(name, wants.preference(offered)) for name, offered in lines if wants.met_by(offered)]


class KnownOffers:
    """What digests stand for, as far as it was read. Two threads may ask: what is kept is replaced, not changed."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, ...]] = {}

    def lines(self, connection: Redis, queues: Iterable[str]) -> dict[str, list[Line]]:
        """The sets of waiting claims of each queue, in one order, without those that nobody of ours has written."""
        found = index.sets_of(connection, PARKED, queues)
        return {queue: self._of(connection, queue, names) for queue, names in found.items()}

    def _of(self, connection: Redis, queue: str, names: Sequence[str]) -> list[Line]:
        known = self._known
        new = [name for name in names if name.startswith(DIGEST) and name not in known]
        read = _read(connection, queue, new) if new else {}
        lines = [
            (name, Offered(offers))
            for name in names
            if (offers := read.get(name) or known.get(name) or _named(name)) is not None
        ]
        if read:
            kept = {**known, **read}
            self._known = kept if len(kept) <= KEPT_MAX else dict(read) if len(read) <= KEPT_MAX else {}
        return lines


def tidy(connection: Redis) -> None:
    """Forget sets that have no members any more, what is none, and texts that no set is named after."""

    for key in connection.scan_iter(match=texts_key("*"), count=1_000):
        _TIDY_TEXTS.run(connection, [key], [key.removesuffix(b"texts") + b"in:"])
    index.tidy_sets(connection, PARKED, lambda name: name.startswith(DIGEST) or _named(name) is not None)


@lru_cache(maxsize=index.TEXTS_MAX)
def _named(name: str) -> tuple[str, ...] | None:
    """The offers that a name says itself; None where it is no such text."""
    found = None if name.startswith(DIGEST) else index.decode_job_terms(name)
    return None if found is None or found[1] else found[0]


def _read(connection: Redis, queue: str, names: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """The offers that these digests stand for; those that stand for nothing are left out."""
    found: dict[str, tuple[str, ...]] = {}
    for start in range(0, len(names), READ_AT_ONCE):
        some = list(names[start : start + READ_AT_ONCE])
        texts = cast(list[bytes | None], connection.hmget(texts_key(queue), some))
        for name, text in zip(some, texts, strict=True):
            offers = None if text is None else _said(name, text)
            if offers is not None:
                found[name] = offers
    return found


def _said(name: str, text: bytes) -> tuple[str, ...] | None:
    try:
        return from_json(text, tuple[str, ...]) if set_name(text.decode()) == name else None
    except UNREADABLE:
        return None


_TIDY_TEXTS = Script(
    """
-- KEYS: 1 texts of a queue by the names of its sets.  ARGV: the prefix of their members
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return redis.call('DEL', KEYS[1]) end
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  if redis.call('EXISTS', ARGV[1] .. name) == 0 then redis.call('HDEL', KEYS[1], name) end
end
"""
)
