"""The rq entry point: one request, settled by a stock `rq worker -S json` on the same path as a batch."""

import json
import os
from functools import lru_cache
from typing import Any

from msgspec import structs
from rq import get_current_job

from broker.batch import settle_batch
from broker.clock import AnchoredClock
from broker.messages import Claim, Request
from broker.settings import load
from workers.admission import admitted
from workers.entries import Entry
from workers.finishing import finish
from workers.memory_owner import in_forked_horse
from workers.runtime import Runtime, StartError, datastore_url, open_runtime, worker_name


def settle(envelope: dict[str, Any] | str) -> str:
    """Settle one request and reply on its channel; the word of the answer.

    Raises:
      StartError: this process can't serve the store it is set to; the rq job fails and may be tried again.
    """
    rq_job = get_current_job()
    name = (rq_job.worker_name if rq_job is not None else None) or "stock"
    runtime, worker = _runtime(os.getpid(), name)
    text = json.dumps(envelope).encode()
    runtime.serve()  # rq's own workers are heard of by rq alone: another store may have come meanwhile
    if runtime.memory is not None:
        runtime.memory.keep(runtime.connection)
    entry = Entry(wire="intake", key=text, data=text)
    clock = AnchoredClock(runtime.clock.now_ms())
    batch, refused = admitted(runtime.context, runtime.connection, [entry], now_ms=clock.now_ms())
    taken = [structs.replace(each, request=_without_wait(each.request)) for _, each in batch]
    results = settle_batch(runtime.context, runtime.connection, taken, clock=clock, worker=worker)
    settled = list(zip([each for each, _ in batch], results, strict=True))
    finish(runtime.context, runtime.connection, worker, settled, refused, now_ms=clock.now_ms())
    answers = [result.answer for result in results]
    return "invalid" if refused else answers[0].word.value if answers[0] is not None else "waiting"


def _without_wait(request: Request) -> Request:
    """A parked claim comes back over the intake, which stock workers do not serve: here it is answered at once."""
    if isinstance(request, Claim) and request.body.wait_ms:
        body = request.body.model_copy(update={"wait_ms": 0})  # our own value, within the field's limits
        return request.model_copy(update={"body": body})
    return request


@lru_cache(maxsize=1)
def _runtime(_pid: int, rq_worker: str) -> tuple[Runtime, str]:
    """What this process works with, opened at its first request: a forking worker's child opens its own."""
    settings = load()
    if datastore_url(settings).startswith("memory:"):
        _refuse_in_a_horse(rq_worker)
    return open_runtime(settings), worker_name()


def _refuse_in_a_horse(rq_worker: str) -> None:
    """Refuse a memory store in a work-horse: it would settle into a copy that ends with it."""
    rq_job = get_current_job()
    if rq_job is not None and in_forked_horse(rq_job.connection, rq_worker):
        raise StartError(
            "memory:// can't be served by a forking rq worker: each work-horse would write to a copy; "
            "use `rq worker -w rq.SimpleWorker`, `broker worker`, or sqlite:///path"
        )
