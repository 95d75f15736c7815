"""How a request travels: as an rq job on rq's wire, or as plain JSON on the intake. Both name the same three queues."""

import json
from collections.abc import Callable
from typing import Literal, TypeAlias

from redis.asyncio.client import Pipeline as AsyncPipeline
from redis.client import Pipeline

from broker.messages import Envelope

QUEUES = ("leases", "claims", "jobs")
"""Served in this order, so that a herd of claims never starves the holders (design §6)."""
SETTLE = "workers.tasks.settle"
"""The one function a broker worker runs, named by string: clients do not import the workers."""
RedisValue: TypeAlias = bytes | bytearray | memoryview | str | int | float
Wire: TypeAlias = Literal["rq", "intake"]
JOB_TIMEOUT_S = 60
"""How long a stock rq worker lets one settlement take."""


def rq_queue_key(queue: str) -> str:
    """The list of rq job ids that rq keeps for a queue."""
    return f"rq:queue:{queue}"


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
    argument = envelope if envelope.startswith("{") else json.dumps(envelope, ensure_ascii=False)
    return {
        "data": f'["{SETTLE}",null,[{argument}],{{}}]',
        "origin": queue,
        "status": "queued",
        "timeout": str(JOB_TIMEOUT_S),
        "result_ttl": "0",
        "failure_ttl": "60",
    }


def enqueue(
    pipe: "Pipeline | AsyncPipeline", request: Envelope, *, wire: Wire, sign: Callable[[str], str] = str
) -> None:
    """Add the commands that put a request on its queue; the caller executes the pipeline. `sign`s its text first."""
    envelope = sign(request.model_dump_json(exclude_none=True))
    queue = request.queue_name
    if wire == "intake":
        pipe.rpush(intake_key(queue), envelope)
        return
    rq_job = rq_job_id(request.request_id, request.attempt)
    pipe.hset(rq_job_key(rq_job), mapping=rq_job_hash(envelope, queue=queue))
    pipe.rpush(rq_queue_key(queue), rq_job)
