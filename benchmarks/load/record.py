"""The work of every contestant that is not ours: one compare-and-set of a record in Redis, and an answer on a list.

One Lua call does both, the least that such a worker can do. Ours does more: it checks, fences, and keeps a run.
"""

from collections.abc import Sequence

from benchmarks.load.loops import Answer

CLAIM = """
local epoch = redis.call('HGET', KEYS[1], 'epoch') or '0'
local won = epoch == ARGV[1] and 1 or 0
if won == 1 then redis.call('HSET', KEYS[1], 'epoch', epoch + 1, 'holder', ARGV[2]) end
if KEYS[2] then redis.call('RPUSH', KEYS[2], ARGV[2] .. ':' .. won) end
return won
"""
REPLIES = "bench:replies"
RECORDS = "bench:record:"
REPLY_WAIT_S = 15
DRAIN = 512


def record_key(number: int) -> str:
    """Where the record of a number stands. It is made by its first claim."""
    return f"{RECORDS}{number}"


def claim_arguments(number: int, *, reply: bool) -> tuple[list[str], list[str]]:
    """Keys and arguments of `CLAIM`: take the record from epoch 0, and answer on the list where `reply`."""
    return ([record_key(number), REPLIES] if reply else [record_key(number)]), ["0", str(number)]


def parse_answers(values: Sequence[bytes]) -> list[Answer]:
    """Answers as `CLAIM` wrote them."""
    pairs = (value.split(b":") for value in values)
    return [Answer(int(number), won == b"1") for number, won in pairs]
