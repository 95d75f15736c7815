"""Commands on keys, strings, lists, hashes, sets and streams, as far as the broker uses them."""

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias
from zlib import crc32

from redis.exceptions import ResponseError

from tests.simulation.redis_side.keyspace import NO_TYPE, OK, TYPES, Keyspace, SetOf, Stream

_SPECIAL = re.compile(rb"[*?\[\\]")
"""What a pattern has besides names."""
SCANNED = 3
"""Members that one SSCAN finds, more only where they have the same hash."""
Command: TypeAlias = Callable[[Keyspace, Sequence[bytes]], Any]


def _set(keys: Keyspace, args: Sequence[bytes]) -> Any:
    key, value, *options = args
    names = [option.upper() for option in options]
    if (b"NX" in names and keys.peek(key) is not None) or (b"XX" in names and keys.peek(key) is None):
        return None
    ends_ms = None
    for unit, factor in ((b"PX", 1), (b"EX", 1000)):
        if unit in names:
            ends_ms = keys.now_ms() + int(options[names.index(unit) + 1]) * factor
    keys.put(key, value, ends_ms=ends_ms)
    return OK


def _get(keys: Keyspace, args: Sequence[bytes]) -> Any:
    return keys.get(args[0], bytes)


def _getdel(keys: Keyspace, args: Sequence[bytes]) -> Any:
    value = keys.get(args[0], bytes)
    _del(keys, args)
    return value


def _mget(keys: Keyspace, args: Sequence[bytes]) -> Any:
    return [found if type(found := keys.peek(key)) is bytes else None for key in args]


def _del(keys: Keyspace, args: Sequence[bytes]) -> Any:
    gone = 0
    for key in args:
        if keys.peek(key) is not None:
            gone += keys.drop(key)
    return gone


def _exists(keys: Keyspace, args: Sequence[bytes]) -> Any:
    found = 0
    for key in args:
        found += keys.peek(key) is not None
    return found


def _type(keys: Keyspace, args: Sequence[bytes]) -> Any:
    value = keys.peek(args[0])
    return NO_TYPE if value is None else TYPES[type(value)]


def _expire(keys: Keyspace, args: Sequence[bytes]) -> Any:
    return int(keys.expire(args[0], int(args[1]) * 1000))


def _pexpire(keys: Keyspace, args: Sequence[bytes]) -> Any:
    return int(keys.expire(args[0], int(args[1])))


def _pttl(keys: Keyspace, args: Sequence[bytes]) -> Any:
    return keys.left_ms(args[0])


def _time(keys: Keyspace, _args: Sequence[bytes]) -> Any:
    now_ms = keys.now_ms()
    return [b"%d" % (now_ms // 1000), b"%d" % (now_ms % 1000 * 1000)]


def _scan(keys: Keyspace, args: Sequence[bytes]) -> Any:
    options = [option.upper() for option in args]
    pattern = args[options.index(b"MATCH") + 1] if b"MATCH" in options else b"*"
    names = keys.names()
    if pattern.endswith(b"*") and not _SPECIAL.search(pattern, 0, len(pattern) - 1):  # as mostly
        return [b"0", sorted([name for name in names if name.startswith(pattern[:-1])])]
    return [b"0", sorted(fnmatch.filter(names, pattern))]


def _flushall(keys: Keyspace, _args: Sequence[bytes]) -> Any:
    keys.clear()
    return OK


def _push(keys: Keyspace, args: Sequence[bytes], *, left: bool) -> Any:
    key, *values = args
    found = keys.made(key, list)
    if left:
        found[:0] = reversed(values)
    else:
        found += values
    return len(found)


def _lpop(keys: Keyspace, args: Sequence[bytes]) -> Any:
    found = keys.get(args[0], list)
    if not found:
        return None
    count = int(args[1]) if len(args) > 1 else 1
    popped = found[:count]
    del found[:count]
    keys.tidy(args[0])
    return popped if len(args) > 1 else popped[0]


def _lmove(keys: Keyspace, args: Sequence[bytes]) -> Any:
    source, target = args[0], args[1]
    found = keys.get(source, list)
    if not found:
        return None
    take, give = args[2].upper(), args[3].upper()
    keys.get(target, list)  # of the wrong kind: nothing is moved
    value = found.pop(0 if take == b"LEFT" else -1)
    keys.tidy(source)
    into = keys.made(target, list)
    into.insert(0 if give == b"LEFT" else len(into), value)
    return value


def span(length: int, first: bytes, last: bytes) -> slice:
    """What a first and a last index, which may count from the end, name of a list."""
    start, stop = int(first), int(last)
    start = max(0, start + length) if start < 0 else start
    stop = stop + length if stop < 0 else stop
    return slice(start, max(start, stop + 1))


def _lrange(keys: Keyspace, args: Sequence[bytes]) -> Any:
    found = keys.get(args[0], list) or []
    return found[span(len(found), args[1], args[2])]


def _ltrim(keys: Keyspace, args: Sequence[bytes]) -> Any:
    found = keys.get(args[0], list)
    if found is not None:
        found[:] = found[span(len(found), args[1], args[2])]
        keys.tidy(args[0])
    return OK


def _lrem(keys: Keyspace, args: Sequence[bytes]) -> Any:
    key, count, value = args[0], int(args[1]), args[2]
    if count < 0:
        raise ResponseError("the simulation knows no negative count of LREM")
    found = keys.get(key, list) or []
    removed = 0
    while value in found and (count == 0 or removed < count):
        found.remove(value)
        removed += 1
    keys.tidy(key)
    return removed


def _llen(keys: Keyspace, args: Sequence[bytes]) -> Any:
    return len(keys.get(args[0], list) or ())


def _hset(keys: Keyspace, args: Sequence[bytes]) -> Any:
    found = keys.made(args[0], dict)
    before = len(found)
    found.update(zip(args[1::2], args[2::2], strict=True))
    return len(found) - before


def _hget(keys: Keyspace, args: Sequence[bytes]) -> Any:
    return (keys.get(args[0], dict) or {}).get(args[1])


def _hmget(keys: Keyspace, args: Sequence[bytes]) -> Any:
    found = keys.get(args[0], dict) or {}
    return [found.get(field) for field in args[1:]]


def _hdel(keys: Keyspace, args: Sequence[bytes]) -> Any:
    found = keys.get(args[0], dict) or {}
    gone = sum(1 for field in args[1:] if found.pop(field, None) is not None)
    keys.tidy(args[0])
    return gone


def _hlen(keys: Keyspace, args: Sequence[bytes]) -> Any:
    return len(keys.get(args[0], dict) or ())


def _hrandfield(keys: Keyspace, args: Sequence[bytes]) -> Any:
    """As many as there are, where so many are asked for; else not at random."""
    return list(keys.get(args[0], dict) or ())[: int(args[1])]


def _hstrlen(keys: Keyspace, args: Sequence[bytes]) -> Any:
    return len((keys.get(args[0], dict) or {}).get(args[1], b""))


def _hscan(keys: Keyspace, args: Sequence[bytes]) -> Any:
    found = keys.get(args[0], dict) or {}
    return [b"0", [part for item in found.items() for part in item]]


def _sadd(keys: Keyspace, args: Sequence[bytes]) -> Any:
    found = keys.made(args[0], SetOf)
    before = len(found)
    found.update(dict.fromkeys(args[1:]))
    return len(found) - before


def _srem(keys: Keyspace, args: Sequence[bytes]) -> Any:
    found = keys.get(args[0], SetOf)
    if found is None:
        return 0
    gone = {member for member in args[1:] if member in found}
    for member in gone:
        found.pop(member, None)
    keys.tidy(args[0])
    return len(gone)


def _smembers(keys: Keyspace, args: Sequence[bytes]) -> Any:
    return list(keys.get(args[0], SetOf) or ())


def _scard(keys: Keyspace, args: Sequence[bytes]) -> Any:
    return len(keys.get(args[0], SetOf) or ())


def _sscan(keys: Keyspace, args: Sequence[bytes]) -> Any:
    """In the order of hashes: who stays while others come and go is found. Fewer than asked for, as a server may."""
    after = int(args[1])
    hashed = sorted((crc32(member) + 1, member) for member in keys.get(args[0], SetOf) or ())
    left = [each for each in hashed if each[0] > after]
    last = left[:SCANNED][-1][0] if left else 0
    portion = [member for place, member in left if place <= last]
    return [b"%d" % (last if len(portion) < len(left) else 0), portion]


def _xadd(keys: Keyspace, args: Sequence[bytes]) -> Any:
    """Trimmed exactly, whatever is said; an id is never the same twice."""
    key, rest = args[0], list(args[1:])
    most = None
    if rest[0].upper() == b"MAXLEN":
        at = 2 if rest[1] in (b"~", b"=") else 1
        most, rest = int(rest[at]), rest[at + 1 :]
    found = keys.made(key, Stream)
    last_ms, _, last = (found[-1][0] if found else b"0-0").partition(b"-")
    now_ms = max(keys.now_ms(), int(last_ms))
    id = b"%d-%d" % (now_ms, int(last) + 1 if now_ms == int(last_ms) else 0)
    found.append((id, dict(zip(rest[1::2], rest[2::2], strict=True))))
    if most is not None:
        del found[:-most]
    return id


def _xlen(keys: Keyspace, args: Sequence[bytes]) -> Any:
    return len(keys.get(args[0], Stream) or ())


COMMANDS: Mapping[bytes, Command] = {
    b"SET": _set,
    b"GET": _get,
    b"GETDEL": _getdel,
    b"MGET": _mget,
    b"DEL": _del,
    b"UNLINK": _del,
    b"EXISTS": _exists,
    b"TYPE": _type,
    b"EXPIRE": _expire,
    b"PEXPIRE": _pexpire,
    b"PTTL": _pttl,
    b"TIME": _time,
    b"SCAN": _scan,
    b"FLUSHALL": _flushall,
    b"LPUSH": lambda keys, args: _push(keys, args, left=True),
    b"RPUSH": lambda keys, args: _push(keys, args, left=False),
    b"LPOP": _lpop,
    b"LMOVE": _lmove,
    b"LRANGE": _lrange,
    b"LTRIM": _ltrim,
    b"LREM": _lrem,
    b"LLEN": _llen,
    b"HSET": _hset,
    b"HGET": _hget,
    b"HMGET": _hmget,
    b"HDEL": _hdel,
    b"HLEN": _hlen,
    b"HRANDFIELD": _hrandfield,
    b"HSTRLEN": _hstrlen,
    b"HSCAN": _hscan,
    b"SADD": _sadd,
    b"SREM": _srem,
    b"SMEMBERS": _smembers,
    b"SCARD": _scard,
    b"SSCAN": _sscan,
    b"XADD": _xadd,
    b"XLEN": _xlen,
}
