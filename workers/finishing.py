"""Ends a batch: replies, hints and rq's bookkeeping in one pipeline; what can't be settled goes to the dead letters."""

import json
from base64 import b64encode
from collections.abc import Callable, Container, Sequence
from typing import Any, cast

import msgspec
from msgspec import Struct
from redis import Redis
from redis.client import Pipeline

from broker import aftermath, families, replies
from broker.answers import Answer, wire
from broker.batch import Settled
from broker.door import Taken
from broker.families import Descent
from broker.parsing import Malformed, without_tokens
from broker.queues import intake_key, rq_job_key, rq_queue_key
from broker.settlement import Context
from datastore.decoding import UNREADABLE, from_json
from datastore.value import Value
from workers import full_redis, once
from workers.entries import ID_BYTES_MAX, Entry, NotOurs
from workers.inflight import slot_key, worker_of
from workers.lean_redis import first_error, post, raise_first
from workers.taking import DEAD, DEAD_MAX

PORTIONS_MAX = 16
"""Of children that are looked at in the end of a batch where nobody comes back to them; the sweep has the others."""
ENTRY_CHARS_MAX = 2_048
"""What the dead-letter list keeps of an entry."""
_RQ_JOB = rq_job_key("").encode()


class Refused(Value, frozen=True, gc=True):
    """An entry that could not be settled, and why.

    Looked at by the collector: the error leads to the frame that caught it, and that to the list of these.
    """

    entry: Entry
    error: NotOurs | Malformed


def finish(
    context: Context,
    connection: Redis,
    worker: str,
    settled: Sequence[tuple[Entry, Settled]],
    refused: Sequence[Refused],
    *,
    now_ms: int,
) -> None:
    """Send every reply, move every hint and take the entries out of the in-flight list, in that order.

    `settled` and `refused` are together what one hand held. A crash part-way leaves them in flight: they are settled
    again, and replayed.
    """
    descent = Descent()
    post_end(context, connection, worker, settled, refused, descent=descent, now_ms=now_ms)()
    for _ in range(PORTIONS_MAX):
        if not descent:
            break
        aftermath.follow_families(context, connection, descent, now_ms=now_ms)


def post_end(
    context: Context,
    connection: Redis,
    worker: str,
    settled: Sequence[tuple[Entry, Settled]],
    refused: Sequence[Refused],
    *,
    descent: Descent,
    now_ms: int,
) -> Callable[[], None]:
    """Post what `finish` sends. What is returned waits until it is done, and does what follows from it.

    `descent` then knows the jobs that have ended and others wait for.
    """
    results = [result for _, result in settled]
    with connection.pipeline(transaction=False) as pipe:
        further = aftermath.deliver(context, pipe, results, now_ms=now_ms)
        parents = families.ended(further.changes)
        for each in refused:
            bury(pipe, each, now_ms=now_ms)
        back = [(entry, result.put_back) for entry, result in settled if result.put_back]
        put_back(pipe, back)
        entries = [(entry, result.answer) for entry, result in settled] + [(each.entry, None) for each in refused]
        once.settled(pipe, [entry.once for entry, result in settled if entry.once and not result.put_back])
        _end_entries(pipe, worker, entries, kept=[entry for entry, _ in back])
        families.ask(pipe, parents)
        commands = pipe.command_stack
        posted = post(pipe)

    def end() -> None:
        replies = posted()
        if first_error(replies) is not None:
            replies = full_redis.insist(connection, commands, replies)
            raise_first(replies)
        if parents and replies[-1]:
            descent.add(parent.id for parent in parents)
        aftermath.follow_up(context, connection, further, descent=descent, now_ms=now_ms)

    return end


def put_back(pipe: Pipeline, entries: Sequence[tuple[Entry, Taken]]) -> None:
    """Add the commands by which requests come again that nothing was done about: behind whatever waits there by now.

    Before they are taken out of the in-flight list: a crash in between has one settled twice, and none lost.
    """
    for entry, taken in entries:
        if taken.once:
            once.forget(pipe, taken.once)
        queue = taken.request.queue_name
        pipe.rpush(intake_key(queue) if entry.wire == "intake" else rq_queue_key(queue), entry.key)


def bury(pipe: Pipeline, refused: Refused, *, now_ms: int) -> None:
    """Add the commands that put an entry on the dead-letter list, and tell its sender where that is known."""
    entry, error = refused.entry, refused.error
    text = (entry.data or entry.key).decode("utf-8", "replace")
    letter = {
        "reason": str(error),
        "at_ms": now_ms,
        "wire": entry.wire,
        "rq_job": entry.key[:ID_BYTES_MAX].decode("utf-8", "replace") if entry.wire == "rq" else None,
        "request_id": error.sender.get("request_id") if isinstance(error, Malformed) else None,
        "entry": without_tokens(text)[:ENTRY_CHARS_MAX],
    }
    pipe.lpush(DEAD, json.dumps(letter, ensure_ascii=False))
    pipe.ltrim(DEAD, 0, DEAD_MAX - 1)
    if isinstance(error, Malformed) and error.sender:
        reply = wire(error.answer, error.sender["request_id"], now_ms)
        key = replies.reply_key(error.sender["factory_id"], error.sender["instance"])
        replies.push(pipe, key, [error.seal.reply(key, replies.encode(reply))])


def read_letters(connection: Redis, limit: int) -> list[dict[str, Any]]:
    """What was put on the dead-letter list, the latest first."""
    texts = cast("list[bytes]", connection.lrange(DEAD, 0, limit - 1))
    return [_letter(text) for text in texts]


class _Letter(Struct):
    """A dead letter. What is cut and buried as it is taken has no more than a reason, a time and an entry."""

    reason: str
    at_ms: int | None = None
    wire: str | None = None
    rq_job: str | None = None
    request_id: str | None = None
    entry: str | None = None


def _letter(text: bytes) -> dict[str, Any]:
    """What a dead letter says; of one that nobody of ours has written, itself: it hides no other."""
    try:
        letter = from_json(text, _Letter)
    except UNREADABLE:
        entry = without_tokens(text.decode("utf-8", "replace"))[:ENTRY_CHARS_MAX]
        letter = _Letter("not a dead letter", entry=entry)
    return msgspec.structs.asdict(letter)


def _end_entries(
    pipe: Pipeline, worker: str, settled: Sequence[tuple[Entry, Answer | None]], *, kept: Container[Entry]
) -> None:
    """Add the command that ends the rq jobs of this batch, and its slots: its entries are all that stands in them.

    The rq jobs of those `kept` come again.
    """
    gone = _ended_rq_jobs(pipe, worker, settled, kept=kept)
    filled = {(entry.wire, entry.slot) for entry, _ in settled}
    gone += [slot_key(worker, wire, slot) for wire, slot in sorted(filled)]
    if gone:
        pipe.execute_command("DEL", *gone)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped


def _ended_rq_jobs(
    pipe: Pipeline, worker: str, settled: Sequence[tuple[Entry, Answer | None]], *, kept: Container[Entry]
) -> list[bytes | str]:
    """The keys of the rq jobs that are to go; of the others, which a plain rq client wants, adds what ends them."""
    gone: list[bytes | str] = []
    for entry, answer in settled:
        if entry.wire == "intake" or entry in kept:
            continue
        rq_job, results = _RQ_JOB + entry.key, b"rq:results:" + entry.key  # bytes: an id need be no text
        if entry.result_ttl_s == 0 or answer is None:
            gone.append(rq_job)
            continue
        # What a plain rq client reads with `rq_job.return_value()`: the word, never a token.
        value = b64encode(json.dumps(answer.word.value).encode()).decode()
        pipe.xadd(results, {"type": 1, "worker_name": worker_of(worker), "return_value": value}, maxlen=10)
        pipe.hset(rq_job, "status", "finished")
        if entry.result_ttl_s > 0:
            pipe.expire(results, entry.result_ttl_s)
            pipe.expire(rq_job, entry.result_ttl_s)
    return gone
