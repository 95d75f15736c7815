"""What operators look at, where some of it is garbage: the rest is shown, and the garbage for what it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import redis

from broker.cli.output import moment
from broker.entropy import SystemEntropy
from broker.keyring import Masters, record, records
from broker.signing import Role
from datastore import connect
from tests.commands import Commands
from tests.home import Home
from tests.in_process import InProcess
from workers.entries import RQ_DATA_BYTES_MAX
from workers.finishing import read_letters
from workers.fleet_status import look
from workers.taking import DEAD, WORKERS

NO_TEXT = b"\xff"
WRONG_LETTERS = (b"garbage", NO_TEXT, b"5", b"{}", b"[" * 90_000, b'{"reason":5}', b'{"reason":"x","at_ms":"y"}')


@pytest.mark.redis
@pytest.mark.parametrize("wrong", WRONG_LETTERS)
def test_dead_letters_are_shown_past_one_that_is_none(broker: InProcess, wrong: bytes) -> None:
    broker.redis.rpush("broker:in:jobs", "poison")
    broker.serve()
    broker.redis.rpush("broker:in:jobs", "x" * (RQ_DATA_BYTES_MAX + 1))
    broker.serve()
    broker.redis.lpush(DEAD, wrong)
    garbage, oversized, poison = read_letters(broker.redis, 9)
    assert garbage["reason"] == "not a dead letter"
    assert (oversized["reason"][:9], oversized["wire"], oversized["request_id"]) == ("oversized", None, None)
    assert (poison["entry"], poison["wire"]) == ("poison", "intake")


@pytest.mark.redis
def test_an_oversized_request_is_shown_as_refused(
    broker: InProcess, redis_url: str, commands: Commands, tmp_path: Path
) -> None:
    broker.redis.rpush("broker:in:jobs", "x" * (RQ_DATA_BYTES_MAX + 1), "poison")
    broker.serve()
    home = Home(tmp_path, {"BROKER_REDIS_URL": redis_url}, run=commands.run)
    status, out, _ = home.run("refused")
    assert status == 0
    assert "oversized" in out and "poison" in out  # noqa: PT018
    assert [each["entry"][:6] for each in home.lines("refused")] == ["poison", "xxxxxx"]


@pytest.mark.redis
def test_what_a_factory_says_begins_no_line_of_its_own_among_the_events(
    broker: InProcess, redis_url: str, commands: Commands, tmp_path: Path
) -> None:
    broker.submit("job")
    [granted] = broker.ask(broker.caller.make("claim", job_id="job"))
    fence = {name: granted["body"][name] for name in ("job_id", "epoch", "token")}
    broker.ask(broker.caller.make("release", **fence, reason="no\nFORGED  victim  completed  epoch 7"))
    _, out, _ = Home(tmp_path, {"BROKER_REDIS_URL": redis_url}, run=commands.run).run("events")
    assert len(out.splitlines()) == 3
    assert "no\\nFORGED" in out


@pytest.mark.redis
def test_the_workers_are_shown_past_one_that_is_none(redis_client: redis.Redis) -> None:
    redis_client.zadd(WORKERS, {b"w1": 1, NO_TEXT: 1, b"w2": float("inf"), b"w3": float("-inf")})
    assert list(look(redis_client).workers) == ["w1"]


WRONG_KEYS: tuple[Mapping[str, Any], ...] = (
    {},
    {"key_id": "garbage", "created_ms": 1, "revoked_ms": None},
    {"key_id": "mac-1:factory:0123456789abcdef", "created_ms": "x", "revoked_ms": None},
)


@pytest.mark.parametrize("wrong", WRONG_KEYS)
def test_keys_are_listed_past_a_record_that_is_none(wrong: Mapping[str, Any], tmp_path: Path) -> None:
    store = connect(f"sqlite:///{tmp_path}/jobs.db")
    key = Masters.parse("0123456789abcdef0123456789abcdef").new_key("mac-1", Role.FACTORY)
    record(store, SystemEntropy(), key, now_ms=1)
    store.create("signing-key:garbage", "signing-key:garbage", {"kind": "signing_key", **wrong, "write_id": "w"})
    assert [each.id for each in records(store)] == [key.id]
    store.close()


@pytest.mark.parametrize("beyond", [10**15, -(10**15), 10**30, float("inf")])
def test_a_time_of_no_calendar_is_shown_as_it_is(beyond: int) -> None:
    assert moment(beyond) == f"{beyond} ms"
