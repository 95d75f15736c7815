"""Clients that sign, and real workers that take nothing else."""

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import redis

from broker.answers import Reason, Word
from broker.client import AsyncClient, InvalidRequest, Reply
from broker.clock import monotonic_ms
from broker.entropy import SystemEntropy
from broker.keyring import revoke
from broker.messages import BODY_BYTES_MAX, SubmitBody
from broker.queues import Wire
from broker.signing import Key, Role
from broker.wire_types import PAYLOAD_BYTES_MAX
from tests.caller import Caller
from tests.fleet import Fleet
from tests.processes import wait_for
from tests.signed_fleet import Signed
from workers.embedded import EmbeddedServer
from workers.finishing import read_letters

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def signed(valkey_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signed]:
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
    folder = tmp_path_factory.mktemp("signed")
    fleet = Fleet(valkey_server.url, folder)
    made = Signed(fleet, folder)
    fleet.start_worker(made.env)
    yield made
    made.store.close()
    fleet.close()


@pytest.fixture
def job_id() -> str:
    return uuid4().hex


@pytest.mark.parametrize("wire", ["rq", "intake"])
def test_a_jobs_whole_life_signed(signed: Signed, job_id: str, wire: Wire) -> None:
    key = signed.key("mac-1")
    with signed.client(key, wire) as client:
        assert client.submit({"quotes": '"' * 1_000, "unicode": "ü\U0001f600"}, job_id=job_id).good
        with client.lease(wait_ms=1_000) as lease:
            assert lease.payload == {"quotes": '"' * 1_000, "unicode": "ü\U0001f600"}
            lease.complete("done")
        assert client.job(job_id).body["job"]["state"] == "succeeded"


@pytest.mark.parametrize("wire", ["rq", "intake"])
def test_the_longest_request_that_a_client_takes_is_settled(signed: Signed, job_id: str, wire: Wire) -> None:
    longest: dict[str, Any] = {
        "payload": '"' * ((PAYLOAD_BYTES_MAX - 2) // 2),
        "job_id": job_id,
        "queue": "long",
    }  # an escape for each
    with signed.client(signed.key("mac-1"), wire, timeout_ms=10_000) as client:

        def labelled(count: int) -> dict[str, str]:
            return {f"{number:02d}": "\x01" * (count // 60 + (number < count % 60)) for number in range(60)}

        fitting = (BODY_BYTES_MAX - len(_body(longest | {"labels": labelled(0)}))) // len(r"\u0001")
        with pytest.raises(InvalidRequest, match=f"at most {BODY_BYTES_MAX} are taken"):
            client.submit(**longest, labels=labelled(fitting + 1))
        assert client.submit(**longest, labels=labelled(fitting)).good
        assert client.job(job_id).body["spec"]["labels"] == labelled(fitting)


def _body(fields: dict[str, Any]) -> str:
    return SubmitBody(**fields).model_dump_json(exclude_defaults=True)


def test_the_async_client_signs_too(signed: Signed, job_id: str) -> None:
    async def life() -> str:
        key = signed.key("mac-1")
        async with AsyncClient.connect(signed.fleet.redis_url, factory_id="mac-1", key=key.text()) as client:
            assert (await client.submit(job_id=job_id)).good
            async with client.lease() as lease:
                await lease.complete()
            return str((await client.job(job_id)).body["job"]["state"])

    assert asyncio.run(life()) == "succeeded"


def test_a_claim_that_waited_is_woken_and_answered_under_its_key(signed: Signed, job_id: str) -> None:
    with signed.client(signed.key("mac-1")) as waiting, signed.client(signed.key("s", Role.SUBMITTER)) as submitter:
        before = monotonic_ms()
        assert waiting.claim(wait_ms=200).answer is Word.NONE_AVAILABLE
        assert monotonic_ms() - before >= 200
        loop = asyncio.new_event_loop()
        claimed = loop.run_in_executor(None, lambda: waiting.claim(wait_ms=30_000))
        wait_for(lambda: signed.fleet.redis.hlen("broker:waiting"), "the claim is parked")
        assert submitter.submit(job_id=job_id).good
        assert loop.run_until_complete(claimed).granted
        loop.close()


def test_an_unsigned_request_changes_nothing_and_is_told_why(signed: Signed, job_id: str) -> None:
    caller = Caller(signed.fleet.redis, "mac-1")
    for wire in ("rq", "intake"):
        reply = caller.ask("submit", job_id=job_id, wire=wire)
        assert (reply["answer"], reply["reason"]) == ("unauthorized", "unsigned")
    with signed.client(signed.key("r", Role.READER)) as reader:
        assert reader.job(job_id).answer is Word.NOT_FOUND
    assert read_letters(signed.fleet.redis, 1)[0]["reason"].startswith("unauthorized")


def test_a_client_with_a_revoked_key_hears_so_and_another_key_works(signed: Signed, job_id: str) -> None:
    old, new = signed.key("mac-1"), signed.key("mac-1")
    with signed.client(old, timeout_ms=5_000) as client:
        assert client.submit(job_id=job_id).good
        revoke(signed.store, SystemEntropy(), old.id, now_ms=1)
        refused = wait_for(lambda: _unless_good(client.job(job_id)), "the key is out")
        assert refused.answer is Word.OUTCOME_UNKNOWN, "an unsigned reply decides nothing"
        for detail in (refused.body["detail"], asyncio.run(asked_by_the_async_client(signed, old)).body["detail"]):
            assert f"not signed with the key {old.id}: it may have been revoked. They said unauthorized: " in detail
            assert "is revoked" in detail
    with signed.client(new) as client:
        assert client.job(job_id).good


def test_what_a_key_does_not_permit_is_refused_at_once(signed: Signed) -> None:
    with signed.client(signed.key("mac-1")) as client:
        reply = client.pause_queue("default")
    assert (reply.answer, reply.reason) == (Word.UNAUTHORIZED, Reason.NOT_PERMITTED)


async def asked_by_the_async_client(signed: Signed, key: Key) -> Reply:
    url = signed.fleet.redis_url
    async with AsyncClient.connect(url, factory_id=key.factory, key=key.text(), timeout_ms=5_000) as client:
        return await client.job("j")


def _unless_good(reply: Reply) -> Reply | None:
    return None if reply.good else reply
