"""Records of waiting claims that nobody of ours has written: they wait for nothing, and hold nobody up."""

import json

import pytest
import redis

from broker.claim_next import WAIT_ENDS, WAITING, claim_id, end_waits
from broker.presence import LOOK_BYTES, READ_WITHIN_MS, REPLY_COST, UNREAD, take_back_unread
from broker.recall import recall
from broker.replies import REPLIES_MAX
from broker.silent import stand_behind
from tests.caller import Caller
from tests.fleet import Fleet
from tests.in_process import InProcess
from tests.processes import wait_for

pytestmark = pytest.mark.redis

LINE = "broker:parked:default:in:[]"
NO_TEXT = b"\xff"


def record(**changed: object) -> bytes:
    known = {"envelope": "{}", "parked_in": LINE, "mark": "broker:settling:f:r", "factory_id": "f", "queue": "default"}
    return json.dumps({**known, "reply_key": "broker:reply:f:x", "reply": "{}", **changed}).encode()


OTHER_TYPES: tuple[object, ...] = (None, 5, {})
RECORDS: dict[str, bytes] = {
    "no JSON": b"garbage",
    "no text": NO_TEXT,
    "empty": b"",
    "too deep": b"[" * 90_000,
    "no object": b"5",
    "null": b"null",
    "a list": b'["parked_in"]',
    "nothing in it": b"{}",
    **{
        f"{name} is {type(value).__name__}": record(**{name: value})
        for name in ("envelope", "parked_in", "mark", "reply_key", "reply", "factory_id", "queue")
        for value in OTHER_TYPES
    },
    "a line of another type": record(parked_in="broker:test:text"),
    "a channel of another type": record(reply_key="broker:test:text"),
    "a mark of no claim": record(mark=""),
}


def poison(client: redis.Redis, name: str, wrong: bytes) -> None:
    """As if a claim of this name waited."""
    client.set("broker:test:text", "x")
    client.hset(WAITING, name, wrong)
    client.zadd(WAIT_ENDS, {name: 4e12})
    client.zadd(LINE, {name: 1})
    client.sadd("broker:parked:default:sets", "[]")


@pytest.mark.parametrize("case", RECORDS)
def test_the_claim_it_stands_for_is_settled_as_if_it_did_not_wait(broker: InProcess, case: str) -> None:
    claim = broker.caller.make("claim")
    poison(broker.redis, claim_id(claim), RECORDS[case])  # type: ignore[arg-type]  # it is a claim
    broker.submit("job")
    [granted] = broker.ask(claim)
    assert granted["answer"] == "granted"


@pytest.mark.parametrize("case", RECORDS)
def test_who_waits_behind_it_is_woken_and_told_of_the_end(broker: InProcess, case: str) -> None:
    others = [broker.caller.make("claim", wait_ms=60_000) for _ in range(2)]
    broker.caller.send(*others)
    broker.serve()
    poison(broker.redis, "x:y", RECORDS[case])
    stand_behind(broker.redis, ["default"])
    broker.submit("one", "two")
    broker.sweep()
    broker.serve()
    assert {reply["answer"] for reply in broker.caller.replies(*others, deadline_ms=1_000)} == {"granted"}
    poison(broker.redis, "x:y", RECORDS[case])
    end_waits(broker.redis, 5_000_000_000_000)
    assert not broker.redis.exists(WAITING, WAIT_ENDS)


@pytest.mark.parametrize("case", RECORDS)
def test_the_claims_of_a_factory_are_called_back_past_it(broker: InProcess, case: str) -> None:
    claim = broker.caller.make("claim", wait_ms=60_000)
    broker.caller.send(claim)
    broker.serve()
    for number in range(3):
        poison(broker.redis, f"x:{number}", RECORDS[case])
    assert recall(broker.redis, broker.caller.factory) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        b"garbage",
        NO_TEXT,
        b"5",
        b"{}",
        b'{"request_id":5,"channel":"x"}',
        b'{"request_id":"r","channel":{}}',
        b'{"request_id":"r","channel":"broker:test:text"}',
    ],
)
def test_a_grant_that_nobody_reads_is_taken_back_past_it(broker: InProcess, wrong: bytes) -> None:
    broker.redis.set("broker:test:text", "x")
    broker.redis.zadd(UNREAD, {wrong: 1})
    broker.caller.send(broker.caller.make("claim", wait_ms=60_000))
    broker.serve()
    broker.caller.send(broker.caller.make("submit", job_id="job"))
    broker.serve()
    now_ms = broker.clock.now_ms() + READ_WITHIN_MS
    assert take_back_unread(broker.redis, broker.context.entropy, now_ms=now_ms) == 1


def test_a_line_with_an_entry_that_is_no_text_is_gone_over(broker: InProcess) -> None:
    broker.redis.zadd(LINE, {NO_TEXT: 1})
    broker.redis.sadd("broker:parked:default:sets", "[]")
    assert stand_behind(broker.redis, ["default"]) == 1


def test_a_worker_serves_on(fleet: Fleet) -> None:
    worker = fleet.start_worker({"BROKER_LOG_LEVEL": "ERROR"})
    caller = Caller(fleet.redis, "caller")
    for number, wrong in enumerate(RECORDS.values()):
        claim = caller.make("claim", queue=f"empty-{number}")
        poison(fleet.redis, claim_id(claim), wrong)  # type: ignore[arg-type]  # it is a claim
        caller.send(claim)
        assert caller.replies(claim)[0]["answer"] == "none_available"
    wait_for(lambda: not fleet.redis.keys("broker:inflight:*"), "nothing is left in flight")
    assert worker.poll() is None


REPLY = b'{"v":1,"request_id":"r","body":%b}'
NOTE: dict[str, object] = {
    "channel": "broker:reply:x:y",
    "request_id": "r",
    "factory_id": "x",
    "incarnation": "i",
    "instance": "y",
}
WRONG_GRANTS: dict[str, tuple[dict[str, object], bytes]] = {
    "no reply": (NOTE, b'{"v":1,"request_id":"r","x":1}'),
    "no JSON": (NOTE, b'{"v":1,"request_id":"r",garbage'),
    "no text": (NOTE, b'{"v":1,"request_id":"r","' + NO_TEXT + b'":1}'),
    "too deep": (NOTE, b'{"v":1,"request_id":"r","body":' + b"[" * 90_000),
    "no body": (NOTE, REPLY % b"5"),
    "no grant": (NOTE, REPLY % b'{"token":5}'),
    "a grant of nothing": (NOTE, REPLY % b'{"token":"t"}'),
    "a grant of no job": (NOTE, REPLY % b'{"token":"t","job_id":"/","queue":"default","epoch":1}'),
    "a grant among several": (NOTE, REPLY % b'{"grants":[{}]}'),
    "no sender": ({**NOTE, "factory_id": 5}, REPLY % b'{"token":"t","job_id":"j","queue":"default","epoch":1}'),
    "a sender of no name": ({**NOTE, "instance": "/"}, REPLY % b'{"token":"t","job_id":"j","queue":"q","epoch":1}'),
    "no key": ({**NOTE, "key_id": []}, REPLY % b'{"token":"t","job_id":"j","queue":"default","epoch":1}'),
}


@pytest.mark.parametrize("case", WRONG_GRANTS)
def test_a_grant_that_nobody_reads_is_taken_back_past_what_is_none(broker: InProcess, case: str) -> None:
    note, reply = WRONG_GRANTS[case]
    broker.redis.zadd(UNREAD, {json.dumps(note): 1})
    broker.redis.rpush("broker:reply:x:y", reply)
    broker.caller.send(broker.caller.make("claim", wait_ms=60_000))
    broker.serve()
    broker.caller.send(broker.caller.make("submit", job_id="job"))
    broker.serve()
    now_ms = broker.clock.now_ms() + READ_WITHIN_MS
    assert take_back_unread(broker.redis, broker.context.entropy, now_ms=now_ms) == 1


def _unread(broker: InProcess, claims: int) -> int:
    """So many claims have waited and been granted, and nobody has read that; when it is looked at."""
    broker.caller.send(*(broker.caller.make("claim", wait_ms=60_000) for _ in range(claims)))
    broker.serve()
    broker.caller.send(*(broker.caller.make("submit") for _ in range(claims)))
    broker.serve()
    return broker.clock.now_ms() + READ_WITHIN_MS


def _leave_more_than_redis_can_look_at(client: redis.Redis, channel: str) -> None:
    megabyte = b"x" * (1 << 20)
    for _ in range(LOOK_BYTES // len(megabyte) + 1):  # one by one: a client has a time limit for each command
        client.rpush(channel, megabyte)


def test_a_channel_is_read_once_however_many_grants_nobody_reads_on_it(broker: InProcess) -> None:
    now_ms = _unread(broker, claims=64)
    broker.redis.config_resetstat()
    assert take_back_unread(broker.redis, broker.context.entropy, now_ms=now_ms) == 64
    reads = broker.redis.info("commandstats")["cmdstat_lrange"]["calls"]
    assert reads < 64, "sixty megabytes, read once for each of 256 grants, kept Redis from everybody for half a minute"


def test_a_client_that_leaves_more_unread_than_redis_can_look_at_keeps_its_grant_for_a_ttl(broker: InProcess) -> None:
    now_ms = _unread(broker, claims=1)
    _leave_more_than_redis_can_look_at(broker.redis, broker.caller.channel)
    assert take_back_unread(broker.redis, broker.context.entropy, now_ms=now_ms) == 0
    assert take_back_unread(broker.redis, broker.context.entropy, now_ms=now_ms) == 0, "and is not looked at again"


def test_a_grant_that_nobody_reads_is_taken_back_behind_one_among_more_than_redis_can_look_at(
    broker: InProcess,
) -> None:
    now_ms = _unread(broker, claims=1)
    _leave_more_than_redis_can_look_at(broker.redis, "broker:reply:x:y")
    broker.redis.zadd(UNREAD, {json.dumps(NOTE): 1, json.dumps({**NOTE, "request_id": "other"}): 2})
    looks = [take_back_unread(broker.redis, broker.context.entropy, now_ms=now_ms) for _ in range(2)]
    assert looks == [0, 1]


def _reads(broker: InProcess, *, now_ms: int, takes_back: int) -> int:
    """How often channels are read in one look."""
    broker.redis.config_resetstat()
    assert take_back_unread(broker.redis, broker.context.entropy, now_ms=now_ms) == takes_back
    return int(broker.redis.info("commandstats")["cmdstat_lrange"]["calls"])


def test_a_grant_that_is_the_oldest_of_all_that_a_channel_holds_is_taken_back(broker: InProcess) -> None:
    now_ms = _unread(broker, claims=1)
    broker.redis.rpush(broker.caller.channel, *[b""] * (REPLIES_MAX - 1))
    reads = _reads(broker, now_ms=now_ms, takes_back=1)
    broker.redis.rpush(broker.caller.channel, *[b""] * 2 * REPLIES_MAX)
    broker.redis.zadd(UNREAD, {json.dumps({**NOTE, "channel": broker.caller.channel}): 1})
    assert _reads(broker, now_ms=now_ms, takes_back=0) <= reads, "nothing of ours lies deeper"


def test_a_look_is_at_no_more_replies_than_redis_can_look_at_however_short_they_are(broker: InProcess) -> None:
    now_ms = _unread(broker, claims=1)
    at_once = LOOK_BYTES // REPLY_COST
    channels = [f"broker:reply:x:{number}" for number in range(2 * at_once // REPLIES_MAX)]
    for number, channel in enumerate(channels):
        broker.redis.rpush(channel, *[b""] * REPLIES_MAX)
        broker.redis.zadd(UNREAD, {json.dumps({**NOTE, "channel": channel}): number})
    reads = [_reads(broker, now_ms=now_ms, takes_back=0) for _ in range(2)]
    assert max(reads) <= at_once // 8 + len(channels)
    assert take_back_unread(broker.redis, broker.context.entropy, now_ms=now_ms) == 1, "of which each has its turn"
