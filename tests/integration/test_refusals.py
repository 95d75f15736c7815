"""What a worker logs of what it refuses: enough to see it, however much of it comes."""

from collections.abc import Mapping
from typing import Any

import redis
from structlog.testing import capture_logs

from broker.clock import ManualClock
from broker.queues import QUEUES
from broker.settings import load
from datastore.memory import MemoryDatastore
from tests.in_process import InProcess
from workers.refusals import AGAIN_MS
from workers.shift import Shift


class Worker:
    """One whose clock stands while it serves."""

    def __init__(self, connection: redis.Redis) -> None:
        self.clock = ManualClock(0)
        self._redis = connection
        self.broker = InProcess(MemoryDatastore(), connection)
        self.shift = Shift(self.broker.context, connection, "w1", QUEUES, load(), steady_ms=self.clock.now_ms)

    def refuse(self, *entries: str, passing_ms: int = 0) -> list[tuple[int, str]]:
        """What it logs as it meets these: how many a line counts, and the reason it shows."""
        self.clock.advance(passing_ms)
        if entries:
            self._redis.rpush("broker:in:jobs", *entries)
        with capture_logs() as logs:
            while self.shift.serve():
                pass
            self.shift.tell()
        return [told(each) for each in logs if each["event"] == "request_refused"]


def told(line: Mapping[str, Any]) -> tuple[int, str]:
    return line["count"], line["reason"]


def test_a_flood_of_refused_requests_is_a_line_a_second_that_counts_them(redis_client: redis.Redis) -> None:
    worker = Worker(redis_client)
    [(first, _)] = worker.refuse(*["x"] * 1_000)
    assert first <= load().batch_max, "the first are told of at once"
    assert worker.refuse(*["x"] * 500, passing_ms=AGAIN_MS - 1) == []
    [(rest, _)] = worker.refuse(passing_ms=1)
    assert first + rest == 1_500
    assert worker.refuse(passing_ms=AGAIN_MS) == [], "there were no more"


def test_a_worker_that_stops_tells_of_all_it_has_refused(redis_client: redis.Redis) -> None:
    worker = Worker(redis_client)
    assert len(worker.refuse("x")) == 1
    assert worker.refuse("x", "x") == []
    with capture_logs() as logs:
        worker.shift.stop()
    assert [told(each)[0] for each in logs] == [2]


def test_a_line_shows_a_reason_and_who_seems_to_have_sent_it(redis_client: redis.Redis) -> None:
    worker = Worker(redis_client)
    request = worker.broker.caller.make("get_job", job_id="j").model_dump_json()
    redis_client.rpush("broker:in:jobs", request.replace('"job_id"', '"jobid"'))
    with capture_logs() as logs:
        worker.shift.serve()
    [line] = [each for each in logs if each["event"] == "request_refused"]
    assert (line["factory"], line["wire"], "jobid" in line["reason"]) == ("factory", "intake", True)
