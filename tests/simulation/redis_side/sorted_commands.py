"""Commands on sorted sets, as far as the broker uses them. With scores, a reply is pairs of member and number."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from tests.simulation.redis_side.keyspace import Keyspace, Sorted, rank
from tests.simulation.redis_side.plain_commands import Command, span

_FLAGS = frozenset({b"XX", b"NX", b"GT", b"LT", b"CH"})
_NO_FLAGS: AbstractSet[bytes] = frozenset()


class Scored(NamedTuple):
    """A member with its score."""

    member: bytes
    score: float


def _zadd(keys: Keyspace, args: Sequence[bytes]) -> Any:
    key, first = args[0], 1
    while args[first].upper() in _FLAGS:
        first += 1
    flags = {flag.upper() for flag in args[1:first]} if first > 1 else _NO_FLAGS
    found = keys.made(key, Sorted)
    added = changed = 0
    for text, member in zip(args[first::2], args[first + 1 :: 2], strict=True):
        score, old = float(text), found.get(member)
        if old is None:
            if b"XX" not in flags:
                found[member] = score
                added += 1
        elif b"NX" in flags or (b"GT" in flags and score <= old) or (b"LT" in flags and score >= old):
            continue
        else:
            changed += score != old
            found[member] = score
    keys.tidy(key)
    return added + changed if b"CH" in flags else added


def _zrem(keys: Keyspace, args: Sequence[bytes]) -> Any:
    found = keys.get(args[0], Sorted)
    if found is None:
        return 0
    gone = [member for member in args[1:] if found.pop(member, None) is not None]
    keys.tidy(args[0])
    return len(gone)


def _zcard(keys: Keyspace, args: Sequence[bytes]) -> Any:
    return len(keys.get(args[0], Sorted) or ())


def _zscore(keys: Keyspace, args: Sequence[bytes]) -> Any:
    found = keys.get(args[0], Sorted)
    return None if found is None else found.get(args[1])


def _zmscore(keys: Keyspace, args: Sequence[bytes]) -> Any:
    found = keys.get(args[0], Sorted) or Sorted()
    return [found.get(member) for member in args[1:]]


def _zrange(keys: Keyspace, args: Sequence[bytes], *, backwards: bool) -> Any:
    for option in args[3:]:
        if option.upper() != b"WITHSCORES":
            raise ResponseError(f"the simulation knows no {option!r} of ZRANGE")
    found = _ordered(keys, args[0])
    if backwards:
        found.reverse()
    return _shown(found[span(len(found), args[1], args[2])], with_scores=len(args) > 3)


def _zrangebyscore(keys: Keyspace, args: Sequence[bytes]) -> Any:
    found = _between(keys, args[0], args[1], args[2])
    if not found:
        return found
    names = [name.upper() for name in args[3:]]
    if b"LIMIT" in names:
        at = names.index(b"LIMIT") + 3
        first, count = int(args[at + 1]), int(args[at + 2])
        found = found[first:] if count < 0 else found[first : first + count]
    return _shown(found, with_scores=b"WITHSCORES" in names)


def _zcount(keys: Keyspace, args: Sequence[bytes]) -> Any:
    return len(_between(keys, *args))


def _zremrangebyscore(keys: Keyspace, args: Sequence[bytes]) -> Any:
    return _remove(keys, args[0], _between(keys, args[0], args[1], args[2]))


def _zremrangebyrank(keys: Keyspace, args: Sequence[bytes]) -> Any:
    found = _ordered(keys, args[0])
    return _remove(keys, args[0], found[span(len(found), args[1], args[2])])


def _zpopmin(keys: Keyspace, args: Sequence[bytes]) -> Any:
    found = _ordered(keys, args[0])[: int(args[1]) if len(args) > 1 else 1]
    _remove(keys, args[0], found)
    return _shown(found, with_scores=True)


def _ordered(keys: Keyspace, key: bytes) -> list[tuple[bytes, float]]:
    found = keys.get(key, Sorted)
    return [] if found is None else found.ordered()


def _between(keys: Keyspace, key: bytes, least: bytes, most: bytes) -> list[tuple[bytes, float]]:
    among = keys.get(key, Sorted)
    if among is None:  # as mostly
        return []
    low, low_open = _bound(least)
    high, high_open = _bound(most)
    found = [
        item
        for item in among.items()
        if (low < item[1] or (low == item[1] and not low_open))
        and (item[1] < high or (item[1] == high and not high_open))
    ]
    return sorted(found, key=rank) if len(found) > 1 else found


def _bound(text: bytes) -> tuple[float, bool]:
    return (float(text[1:]), True) if text.startswith(b"(") else (float(text), False)


def _remove(keys: Keyspace, key: bytes, gone: list[tuple[bytes, float]]) -> int:
    found = keys.get(key, Sorted)
    if found is None:
        return 0
    for member, _ in gone:
        del found[member]
    keys.tidy(key)
    return len(gone)


def _shown(found: list[tuple[bytes, float]], *, with_scores: bool) -> list[Any]:
    return [Scored(*item) for item in found] if with_scores else [member for member, _ in found]


COMMANDS: Mapping[bytes, Command] = {
    b"ZADD": _zadd,
    b"ZREM": _zrem,
    b"ZCARD": _zcard,
    b"ZCOUNT": _zcount,
    b"ZSCORE": _zscore,
    b"ZMSCORE": _zmscore,
    b"ZRANGE": lambda keys, args: _zrange(keys, args, backwards=False),
    b"ZREVRANGE": lambda keys, args: _zrange(keys, args, backwards=True),
    b"ZRANGEBYSCORE": _zrangebyscore,
    b"ZREMRANGEBYSCORE": _zremrangebyscore,
    b"ZREMRANGEBYRANK": _zremrangebyrank,
    b"ZPOPMIN": _zpopmin,
}
