"""Clients that write down what they ask and learn, and `broker check-history` on what they wrote."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from broker.client import AsyncClient, BrokerTimeout, BrokerUnavailable, Client
from broker.client.recording import VARIABLE
from broker.history import Record, check
from broker.history.describe import token_hash
from broker.history.reading import read
from broker.messages import SubmitBody
from tests.fleet import Fleet
from tests.processes import wait_for

pytestmark = pytest.mark.redis


def records(*paths: Path) -> list[Record]:
    return [record for each in read(paths) for record in each]


def told(found: list[Record]) -> list[tuple[Any, ...]]:
    return [(record.type, record.op, record.job, record.epoch, record.answer) for record in found]


def test_a_whole_life_is_written_down_and_found_clean(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start_worker()
    path = tmp_path / "history.jsonl"
    with Client.connect(fleet.redis_url, factory_id="mac-1", history=path) as client:
        client.submit({"n": 1}, job_id="j")
        token = client.claim().body["token"]
        fence = {"epoch": 1, "token": token}
        client.renew_many([{"job_id": "j", **fence}])
        client.claim("j")
        client.fail("j", **fence, retryable=False)
        client.complete("j", **fence)
        client.redrive("j")
        grants = client.claim(count=2).grants
        client.complete("j", epoch=2, token=grants[0].body["token"])
        client.job("j")
        client.jobs()
        client.claim()
    found = records(path)
    assert told([record for record in found if record.type != "invoke"]) == [
        ("start", "", None, None, ""),
        ("ok", "submit", "j", None, "ok"),
        ("ok", "claim", "j", 1, "granted"),
        ("ok", "renew_many", "j", 1, "renewed"),
        ("refused", "claim", "j", None, "conflict"),
        ("ok", "fail", "j", 1, "ok"),
        ("refused", "complete", "j", 1, "already_terminal"),
        ("ok", "redrive", "j", 1, "ok"),
        ("ok", "claim", "j", 2, "granted"),
        ("ok", "complete", "j", 2, "ok"),
        ("ok", "get_job", "j", None, "ok"),
        ("ok", "list_jobs", "j", None, "ok"),
        ("refused", "claim", None, None, "none_available"),
    ]
    seen = [(record.answer, record.seen, record.state) for record in found if record.seen is not None]
    assert seen == [
        ("conflict", 1, "leased"),
        ("already_terminal", 1, "failed"),
        ("ok", 2, "succeeded"),
        ("ok", 2, "succeeded"),
    ]
    assert token not in path.read_text(encoding="utf-8")
    assert token_hash(token) in {record.token for record in found}
    report = check(found, drained=True)
    assert (report.violations, report.calls, report.unknown, report.grants) == ((), 12, 0, 2)


async def _life(fleet: Fleet) -> None:
    async with AsyncClient.connect(fleet.redis_url, factory_id="mac-2") as client:
        await client.submit_many([SubmitBody(job_id="a"), SubmitBody(job_id="b")])
        async with client.lease("a") as lease:
            await lease.complete()
        waiting = asyncio.create_task(client.claim(offers=["nothing=fits"], queue="empty", wait_ms=20_000))
        await asyncio.to_thread(wait_for, lambda: fleet.redis.hlen("broker:waiting"), "the claim waits")
        waiting.cancel()


def test_a_variable_makes_every_client_record_into_a_file_of_its_own(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.start_worker()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    asyncio.run(_life(fleet))
    with Client.connect(fleet.redis_url, factory_id="mac-1") as client, client.lease("b") as lease:
        lease.complete()
    files = sorted(tmp_path.glob("*.jsonl"))
    assert [file.name.partition("-")[0] for file in files] == ["mac", "mac"]
    report = check(records(tmp_path), drained=True)
    assert (report.violations, report.totals.submitted, report.totals.completed) == ((), 2, 2)
    assert report.unknown == 1, "the claim that was cancelled as it waited"


def test_a_call_without_an_answer_is_unknown_and_one_that_never_left_was_refused(fleet: Fleet, tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with Client.connect(fleet.redis_url, factory_id="f", timeout_ms=2_000, history=path) as client:
        with pytest.raises(BrokerTimeout):
            client.submit(job_id="j")  # no worker serves
        fleet.redis.config_set("maxmemory", 1)
        try:
            with pytest.raises(BrokerUnavailable):
                client.submit(job_id="k")
        finally:
            fleet.redis.config_set("maxmemory", 0)
    assert told(records(path))[1:] == [
        ("invoke", "submit", "j", None, ""),
        ("unknown", "submit", "j", None, ""),
        ("invoke", "submit", "k", None, ""),
        ("refused", "submit", "k", None, "not_sent"),
    ]


def test_a_client_that_records_nothing_has_no_recorder(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with Client.connect(redis_url, factory_id="f") as client:
        assert client._exchange.history is None
    assert list(tmp_path.glob("*.jsonl")) == []


def test_lines_are_json_that_others_can_read(redis_url: str, tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    Client.connect(redis_url, factory_id="f", history=path).close()
    [line] = path.read_bytes().splitlines()
    start = json.loads(line)
    assert {"type", "at", "client", "factory", "incarnation", "pid", "clock", "v"} == set(start)
