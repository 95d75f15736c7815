"""The marks of signed requests that were taken: what was settled is not settled again for a copy of it."""

from collections.abc import Iterable, Sequence

from redis import Redis
from redis.client import Pipeline

from broker.scripts import Script

ONCE = "broker:once:"
"""Key of a signed request that was taken, by its MAC, until it is past its deadline."""

_TAKE = Script(
    """
-- KEYS: a mark for each request.  ARGV: how long each stands, ms; then for each whether a worker died with it in hand.
-- Returns the numbers of the copies
local copies, here = {}, {}
for i, key in ipairs(KEYS) do
  if not redis.call('SET', key, 'taken', 'NX', 'PX', ARGV[i]) then
    if here[key] or ARGV[#KEYS + i] == '0' or redis.pcall('GET', key) == 'settled' then copies[#copies + 1] = i end
  end
  here[key] = true
end
return copies
"""
)
_SETTLED = "for _, key in ipairs(KEYS) do redis.call('SET', key, 'settled', 'XX', 'KEEPTTL') end"
"""Sent whole: in a pipeline nobody looks whether the server has forgotten it."""


def take(connection: Redis, macs: Sequence[str], left_ms: Sequence[int], insist: Sequence[bool]) -> list[int]:
    """Mark requests as taken, each for `left_ms`; the positions of those that were before.

    `insist`: a worker died with it in hand. Then it is no copy, unless it is settled, or stands there twice.
    """
    keys = [f"{ONCE}{mac}" for mac in macs]
    return [number - 1 for number in _TAKE.run(connection, keys, [*left_ms, *map(int, insist)])]


def settled(pipe: Pipeline, macs: Iterable[str]) -> None:
    """Add the command after which no copy of these is taken, whoever dies with it in hand.

    It belongs into the pipeline that takes the requests out of the in-flight list: until then a worker that dies leaves
    them to be settled again.
    """
    if keys := [f"{ONCE}{mac}" for mac in macs]:
        pipe.eval(_SETTLED, len(keys), *keys)


def forget(pipe: Pipeline, mac: str) -> None:
    """Add the command after which this request may come again: nothing was done about it, and it is put back."""
    pipe.delete(f"{ONCE}{mac}")
