"""A Redis that is full of requests becomes empty again by itself: what queues is dropped, and sent again."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest
import redis
from redis.exceptions import OutOfMemoryError, ResponseError

from broker.acl import RedisRole, user_line
from broker.messages import Envelope
from broker.queues import QUEUES, Wire
from broker.settings import load
from datastore.memory import MemoryDatastore
from tests.caller import Caller
from tests.fleet import Fleet
from tests.in_process import InProcess
from tests.processes import wait_for
from workers import full_redis
from workers.inflight import PREFIX
from workers.shift import Shift
from workers.taking import sources

pytestmark = pytest.mark.redis

ROOM_BYTES = 2 * 1024 * 1024
WIRES: tuple[Wire, ...] = ("rq", "intake")


@pytest.fixture
def server(redis_client: redis.Redis) -> Iterator[redis.Redis]:
    yield redis_client
    redis_client.config_set("maxmemory", 0)


@pytest.fixture
def workers(server: redis.Redis, redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    """Whose Redis user has a worker's rights and no more."""
    user = user_line("w", RedisRole.WORKER, password="pw")
    server.execute_command(*user.split())  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    fleet = Fleet(redis_url, tmp_path)
    fleet.redis_url = redis_url.replace("unix://", "unix://w:pw@")
    yield fleet
    fleet.close()
    server.execute_command("ACL", "DELUSER", "w")  # type: ignore[no-untyped-call]


def queued(server: redis.Redis) -> int:
    return sum(int(server.llen(key)) for _, key in sources())


def flood(server: redis.Redis, herd: list[Caller], wire: Wire) -> dict[Caller, list[Envelope]]:
    """Send until Redis takes no more; what was sent."""
    server.config_set("maxmemory", server.info("memory")["used_memory"] + ROOM_BYTES)
    sent: dict[Caller, list[Envelope]] = {caller: [] for caller in herd}
    try:
        while True:
            for caller in herd:
                requests = [caller.make("submit", job_id=uuid4().hex) for _ in range(50)]
                caller.send(*requests, wire=wire)
                sent[caller] += requests
    except OutOfMemoryError:
        return sent


def told(server: redis.Redis, caller: Caller) -> dict[str, str]:
    """What stands on the channel of a client that reads none of it, by request id."""
    replies = [json.loads(text) for text in cast(list[bytes], server.lrange(caller.channel, 0, -1))]
    return {reply["request_id"]: reply["answer"] for reply in replies}


@pytest.mark.parametrize("wire", WIRES)
def test_what_fills_redis_is_dropped_until_there_is_room_and_holders_are_heard(
    server: redis.Redis, workers: Fleet, wire: Wire
) -> None:
    holder, herd = Caller(server, "holder"), [Caller(server, f"f{number}") for number in range(8)]
    first = workers.start_worker()
    holder.submit("mine")
    lease = holder.ask("claim", job_id="mine")["body"]
    first.terminate()
    assert first.wait(timeout=20) == 0
    renewal = holder.make("renew", **{name: lease[name] for name in ("job_id", "epoch", "token")})
    holder.send(renewal)
    sent = flood(server, herd, wire)
    assert queued(server) > 1_000
    workers.start_worker()  # beside a Redis that is full
    assert holder.replies(renewal)[0]["answer"] == "renewed"
    wait_for(lambda: not queued(server) and not server.keys(f"{PREFIX}*"), "all else is settled")
    answers = {caller: told(server, caller) for caller in herd}
    assert Counter(chain.from_iterable(each.values() for each in answers.values())).keys() == {"ok"}
    [silent, *_] = [
        (caller, each) for caller in herd for each in sent[caller] if each.request_id not in answers[caller]
    ]
    silent[0].send(silent[1].model_copy(update={"attempt": 2}), wire=wire)
    assert silent[0].replies(silent[1])[0]["answer"] == "ok", "it is sent again, as after any loss"


def test_without_that_nothing_is_taken_nor_answered(server: redis.Redis) -> None:
    broker = InProcess(MemoryDatastore(), server)
    broker.submit("mine")
    flood(server, [Caller(server, "f")], "intake")
    server.config_set("maxmemory", int(server.info("memory")["used_memory"] * 0.95))
    held = queued(server)
    shift = Shift(broker.context, server, "w1", QUEUES, load())
    with pytest.raises(OutOfMemoryError):
        shift.take()
    assert queued(server) == held
    assert full_redis.make_room(server, QUEUES) > 0
    shift.settle(shift.leftovers())
    assert shift.take().entries


def test_a_server_with_room_and_one_whose_queues_are_empty_are_left_alone(server: redis.Redis) -> None:
    caller = Caller(server)
    caller.send(caller.make("claim"))
    assert full_redis.make_room(server, QUEUES) == 0
    server.config_set("maxmemory", 1)
    assert full_redis.make_room(server, ["leases"]) == 0
    assert full_redis.make_room(server, QUEUES) == 1
    assert full_redis.make_room(server, QUEUES) == 0


def answered_as_redis_becomes_full(server: redis.Redis) -> bool:
    """Whether a claim has its answer that was granted just before."""
    broker = InProcess(MemoryDatastore(), server)
    broker.submit("mine")
    claim = broker.caller.make("claim", job_id="mine")
    broker.caller.send(claim)
    results = broker.settle(broker.take("w1").entries, "w1")
    server.config_set("maxmemory", 1)
    with suppress(OutOfMemoryError):
        broker.finish(results, "w1")
    server.config_set("maxmemory", 0)
    assert not server.keys(f"{PREFIX}*"), "nobody has it in hand any more"
    return broker.caller.has_reply(claim)


def test_what_was_settled_as_redis_became_full_is_answered(server: redis.Redis) -> None:
    assert answered_as_redis_becomes_full(server)


def test_its_answer_would_be_lost_if_it_were_not_insisted_on(
    server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The twin of the test above.
    monkeypatch.setattr(full_redis, "insist", lambda _connection, _commands, replies: replies)
    assert not answered_as_redis_becomes_full(server)


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), True),
        # Redis 6.2, of a script
        (
            ResponseError("Error running script (call to f_6b): @user_script: 4: -OOM command not allowed when used"),
            True,
        ),
        (ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), False),
        (None, False),
    ],
)
def test_it_is_known_by_what_redis_says(error: Exception | None, full: bool) -> None:
    assert full_redis.met(error) == full
