"""What happens to requests when a worker is killed with them in hand."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import cast

from redis.exceptions import RedisError

from broker import queues, replies
from broker.messages import Claim, ClaimBody, Envelope, Submit, SubmitBody
from broker.queues import Wire
from tests.conftest import StartValkey
from tests.fleet import Fleet
from tests.processes import wait_for

ADDRESS = {"factory_id": "f", "incarnation": "i", "instance": "x"}


def submit(request_id: str, job_id: str) -> Submit:
    return Submit(request_id=request_id, body=SubmitBody(job_id=job_id), **ADDRESS)


def claim(request_id: str, job_id: str | None = None) -> Claim:
    return Claim(request_id=request_id, body=ClaimBody(job_id=job_id), **ADDRESS)


def send(fleet: Fleet, *requests: Envelope, wire: Wire = "rq") -> None:
    with fleet.redis.pipeline(transaction=False) as pipe:
        for request in requests:
            queues.enqueue(pipe, request, wire=wire)
        pipe.execute()


def receive(fleet: Fleet, count: int) -> list[dict[str, object]]:
    """So many replies, or more."""
    return receive_until(fleet, lambda found: len(found) >= count, f"{count} replies")


def receive_until(
    fleet: Fleet, enough: Callable[[list[dict[str, object]]], bool], what: str
) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []

    def received() -> bool:
        texts = cast(list[bytes], fleet.redis.lpop(replies.reply_key("f", "x"), 1_000) or [])
        found.extend(json.loads(text) for text in texts)
        return enough(found)

    wait_for(received, what, deadline_ms=20_000)
    return found


def test_requests_of_a_killed_worker_are_taken_over_and_answered(fleet: Fleet) -> None:
    settings = {"BROKER_TAKEOVER_MS": "2000"}
    victim = fleet.start_worker(settings)
    send(fleet, submit("s", "job"))
    receive(fleet, 1)
    fleet.stop_at_its_waits(victim)
    send(fleet, claim("c1", "job"))
    send(fleet, claim("c2"), wire="intake")
    wait_for(lambda: not fleet.redis.llen("rq:queue:claims") + fleet.redis.llen("broker:in:claims"), "both in flight")
    victim.kill()
    heir = fleet.start_worker(settings)
    answers = {reply["request_id"]: reply["answer"] for reply in receive(fleet, 2)}
    assert answers == {"c1": "granted", "c2": "none_available"}
    assert heir.poll() is None
    wait_for(lambda: not fleet.redis.keys("broker:inflight:*"), "nothing is left in flight")


def test_a_stopped_worker_that_wakes_up_late_grants_nothing_twice(fleet: Fleet) -> None:
    settings = {"BROKER_TAKEOVER_MS": "2000"}
    sleeper = fleet.start_worker(settings)
    jobs = [f"job-{number}" for number in range(20)]
    send(fleet, *(submit(f"s{job}", job) for job in jobs))
    receive(fleet, 20)
    fleet.stop_at_its_waits(sleeper)
    send(fleet, *(claim(f"c{job}", job) for job in jobs))
    fleet.start_worker(settings)
    first = receive(fleet, 20)
    sleeper.send_signal(signal.SIGCONT)
    send(fleet, *(claim(f"again{job}", job) for job in jobs))
    again = {f"again{job}" for job in jobs}
    # The one that slept answers what it had in hand, too: perhaps all the first claims, before any of these.
    second = receive_until(fleet, lambda found: again <= {reply["request_id"] for reply in found}, "all are answered")
    assert {reply["answer"] for reply in first} == {"granted"}
    assert [reply["answer"] for reply in second if reply["request_id"] in again] == ["conflict"] * 20
    assert {reply["answer"] for reply in second if reply["request_id"] not in again} <= {"replayed"}


def test_a_terminated_worker_answers_what_it_has_in_hand_and_leaves_nothing(fleet: Fleet) -> None:
    worker = fleet.start_worker()
    send(fleet, *(submit(f"s{number}", f"job-{number}") for number in range(200)))
    worker.terminate()
    assert worker.wait(timeout=20) == 0
    assert not fleet.redis.keys("broker:inflight:*")
    fleet.start_worker()
    assert len(receive(fleet, 200)) == 200


def test_a_worker_outlives_a_restart_of_redis_and_loses_no_job(start_valkey: StartValkey, tmp_path: Path) -> None:
    server = start_valkey()
    fleet = Fleet(server.url, tmp_path)
    try:
        worker = fleet.start_worker()
        send(fleet, submit("s", "job"))
        receive(fleet, 1)
        server.stop()
        start_valkey()
        wait_for(lambda: _answers(fleet), "Redis is back")
        send(fleet, claim("c", "job"))
        assert [reply["answer"] for reply in receive(fleet, 1)] == ["granted"]
        assert worker.poll() is None
    finally:
        fleet.close()


def _answers(fleet: Fleet) -> bool:
    try:
        return bool(fleet.redis.ping())
    except RedisError:
        return False
