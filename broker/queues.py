"""How a request travels: as an rq job on rq's wire, or as plain JSON on the intake. Both name the same three queues."""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Literal, TypeAlias

import hiredis
from redis.client import Pipeline

from broker.messages import Envelope
from datastore.value import Value

QUEUES = ("leases", "claims", "jobs")
"""Served in this order, so that a herd of claims never starves the holders (design §6)."""
SETTLE = "workers.tasks.settle"
"""The one function a broker worker runs, named by string: clients do not import the workers."""
RedisValue: TypeAlias = bytes | bytearray | memoryview | str | int | float
Wire: TypeAlias = Literal["rq", "intake"]
Sign: TypeAlias = Callable[[str], str]
"""Makes an envelope what travels."""
JOB_TIMEOUT_S = 60
"""How long a stock rq worker lets one settlement take."""


def rq_queue_key(queue: str) -> str:
    """The list of rq job ids that rq keeps for a queue."""
    return f"rq:queue:{queue}"


RQ_WORKERS = "rq:workers"
"""The set of the keys of all the workers that rq has registered."""


def rq_workers_key(queue: str) -> str:
    """The set of the keys of the workers that rq has registered for a queue."""
    return f"{RQ_WORKERS}:{queue}"


def rq_job_key(rq_job_id: str) -> str:
    """The hash in which rq keeps an rq job."""
    return f"rq:job:{rq_job_id}"


def intake_key(queue: str) -> str:
    """The list a factory in any language pushes plain envelopes onto, with one RPUSH."""
    return f"broker:in:{queue}"


def rq_job_id(request_id: str, attempt: int) -> str:
    """A resend is an rq job of its own: a settled one must not take the hash of one that still waits."""
    return f"{request_id}-{attempt}"


def rq_job_hash(envelope: str, *, queue: str) -> dict[RedisValue, RedisValue]:
    """The fields rq needs to run `SETTLE` on an envelope (JSON text, or signed): uncompressed JSON, no result kept."""
    return {
        "origin": queue,
        "status": "queued",
        "timeout": str(JOB_TIMEOUT_S),
        "result_ttl": "0",
        "failure_ttl": "60",
        "data": f'["{SETTLE}",null,[{_argument(envelope)}],{{}}]',
    }


def _argument(envelope: str) -> str:
    """An envelope as JSON: a signed one is a string."""
    return envelope if envelope.startswith("{") else json.dumps(envelope, ensure_ascii=False)


class Message(Value, frozen=True):
    """A request as it goes to its queue."""

    queue: str
    request_id: str
    attempt: int
    text: str
    """The envelope, JSON or signed."""

    @property
    def rq_job(self) -> str:
        """The id of its rq job."""
        return rq_job_id(self.request_id, self.attempt)

    def signed(self, sign: Sign) -> "Message":
        """The same, signed."""
        return Message(self.queue, self.request_id, self.attempt, sign(self.text))


def commands(messages: Iterable[Message], wire: Wire) -> list[tuple[RedisValue, ...]]:
    """The Redis commands that put `messages` on their queues: one push for each queue, however many there are."""
    made: list[tuple[RedisValue, ...]] = []
    pushed: dict[str, list[RedisValue]] = {}
    for message in messages:
        if wire == "intake":
            pushed.setdefault(intake_key(message.queue), []).append(message.text)
            continue
        job, fields = message.rq_job, rq_job_hash(message.text, queue=message.queue)
        made.append(("HSET", rq_job_key(job), *chain.from_iterable(fields.items())))
        pushed.setdefault(rq_queue_key(message.queue), []).append(job)
    return made + [("RPUSH", key, *values) for key, values in pushed.items()]


def pack(command: Sequence[RedisValue]) -> bytes:
    """A command as it goes over the connection."""
    packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]  # its stubs allow one argument
    return packed


def packed(messages: Iterable[Message], wire: Wire) -> tuple[bytes, int]:
    """`commands` as they go over the connection, and how many there are."""
    hashes: list[bytes] = []
    pushed: dict[str, list[bytes]] = {}
    for message in messages:
        if wire == "intake":
            pushed.setdefault(message.queue, []).append(message.text.encode())
            continue
        job, argument = message.rq_job.encode(), _argument(message.text).encode()
        head, fields, before, after = _packed_hash(message.queue)
        size = len(before) + len(argument) + len(after)
        hashes.append(b"%b$%d\r\n%b%b\r\n%b$%d\r\n%b%b%b\r\n" % (
            head, len(_RQ_JOB) + len(job), _RQ_JOB, job, fields, size, before, argument, after,
        ))  # fmt: skip
        pushed.setdefault(message.queue, []).append(job)
    key = intake_key if wire == "intake" else rq_queue_key
    pushes = [pack(("RPUSH", key(queue), *values)) for queue, values in pushed.items()]
    return b"".join(hashes + pushes), len(hashes) + len(pushes)


_RQ_JOB = rq_job_key("").encode()


@lru_cache(maxsize=len(QUEUES))
def _packed_hash(queue: str) -> tuple[bytes, bytes, bytes, bytes]:
    """The HSET of an rq job around its key, and its data around the envelope: for one queue always the same."""
    gap = "{here}"
    fields = rq_job_hash(gap, queue=queue)
    before, after = str(fields.pop("data")).split(gap)
    parts = [*chain.from_iterable(fields.items()), "data"]
    packed_parts = b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in (str(each).encode() for each in parts))
    return b"*%d\r\n$4\r\nHSET\r\n" % (len(parts) + 3), packed_parts, before.encode(), after.encode()


def enqueue(pipe: Pipeline, request: Envelope, *, wire: Wire, sign: Sign = str) -> None:
    """Add the commands that put a request on its queue; the caller executes the pipeline. `sign`s its text first."""
    text = sign(request.model_dump_json(exclude_none=True))
    message = Message(request.queue_name, request.request_id, request.attempt, text)
    for command in commands([message], wire):
        pipe.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
