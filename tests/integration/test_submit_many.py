"""Many submissions in one call: what is known of each, whatever becomes of the others."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from broker.answers import Word
from broker.client import AsyncClient, BrokerUnavailable, Client, InvalidRequest, Reply
from broker.client.leasing import TOGETHER_MAX
from broker.client.submissions import Submission
from broker.messages import SubmitBody
from broker.queues import rq_queue_key
from tests.fleet import Fleet
from tests.processes import wait_for

pytestmark = pytest.mark.redis

ATTEMPT_MS = 60_000
"""Nothing is sent twice here."""


@pytest.fixture
def limited(fleet: Fleet) -> Iterator[Callable[[str], str]]:
    """Gives a Redis user its rights; the URL with which it comes in."""

    def may(rights: str) -> str:
        rules = ["reset", "on", ">pw", "~*", "&*", *rights.split()]
        fleet.redis.execute_command("ACL", "SETUSER", "many", *rules)  # type: ignore[no-untyped-call]
        return fleet.redis_url.replace("://", "://many:pw@", 1)

    yield may
    fleet.redis.execute_command("ACL", "DELUSER", "many")  # type: ignore[no-untyped-call]


def in_threads(url: str, bodies: Sequence[Submission]) -> list[Reply]:
    with Client.connect(url, factory_id="f", incarnation="i", attempt_ms=ATTEMPT_MS) as client:
        return client.submit_many(bodies, timeout_ms=ATTEMPT_MS)


def in_a_loop(url: str, bodies: Sequence[Submission]) -> list[Reply]:
    async def main() -> list[Reply]:
        async with AsyncClient.connect(url, factory_id="f", incarnation="i", attempt_ms=ATTEMPT_MS) as client:
            return await client.submit_many(bodies, timeout_ms=ATTEMPT_MS)

    return asyncio.run(main())


@pytest.mark.parametrize("submit", [in_threads, in_a_loop])
def test_jobs_are_given_as_to_submit(fleet: Fleet, submit: Callable[[str, Sequence[Submission]], list[Reply]]) -> None:
    fleet.start_worker()
    jobs = [{"payload": {"build": name}, "queue": "builds", "labels": {"for": name}} for name in ("web", "api")]
    named = {"job_id": "named", "requires": ["gpu"], "unique": "deploy", "deadline_in_ms": 60_000, "ttl_ms": None}
    answers = submit(fleet.redis_url, [*jobs, named, SubmitBody(job_id="body")])
    assert [reply.good for reply in answers] == [True] * 4
    with Client.connect(fleet.redis_url, factory_id="f") as client:
        web, api, as_named, body = (client.job(reply.body["job_id"]).body for reply in answers)
    assert [each["spec"]["payload"] for each in (web, api)] == [{"build": "web"}, {"build": "api"}]
    assert (web["job"]["queue"], api["spec"]["labels"]) == ("builds", {"for": "api"})
    job = as_named["job"]
    assert (job["id"], job["requires"], job["unique"]) == ("named", ["gpu"], "deploy")
    assert job["deadline_ms"] == job["created_ms"] + 60_000
    assert body["job"]["id"] == "body"


@pytest.mark.parametrize(
    ("job", "problem"),
    [
        ({"priority": 10**9}, "priority"),
        ({"prioritty": 1}, "prioritty"),
        ({"requires": "gpu"}, "requires: a list of texts is expected, not one"),
        ({"requires": None}, "requires: a list of texts is expected"),
        ({"timeout_ms": 1}, "timeout_ms: it bounds the call.*deadline_in_ms"),
        ({"request_id": "r"}, "request_id: give request_ids"),
        ("job", "a mapping of the arguments of `submit` is expected"),
    ],
    ids=str,
)
def test_a_job_that_is_none_is_told_by_its_place_and_field_before_anything_is_sent(
    fleet: Fleet, job: Any, problem: str
) -> None:
    with Client.connect(fleet.redis_url, factory_id="f") as client:
        with pytest.raises(InvalidRequest, match=rf"^bodies\[1\]: {problem}"):
            client.submit_many([{"payload": 1}, job], timeout_ms=100)
        assert fleet.redis.llen(rq_queue_key("jobs")) == 0


@pytest.mark.parametrize("submit", [in_threads, in_a_loop])
def test_what_was_stored_is_told_though_redis_takes_no_more_behind_it(
    fleet: Fleet, limited: Callable[[str], str], submit: Callable[[str, Sequence[Submission]], list[Reply]]
) -> None:
    bodies = [SubmitBody(payload=number) for number in range(TOGETHER_MAX + 2)]
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(submit, limited("+@all"), bodies)
        wait_for(lambda: fleet.redis.llen(rq_queue_key("jobs")) == TOGETHER_MAX, "the first are on their way")
        limited("+@all -hset -rpush")
        fleet.start_worker()
        answers = told.result()
    assert Counter(reply.answer for reply in answers) == {Word.OK: TOGETHER_MAX, Word.OUTCOME_UNKNOWN: 2}
    with Client.connect(fleet.redis_url, factory_id="f", incarnation="i") as client:
        unknown = [index for index, reply in enumerate(answers) if not reply.good]
        again = client.submit_many(
            [bodies[index] for index in unknown], request_ids=[answers[index].request_id for index in unknown]
        )
        assert [reply.good for reply in again] == [True, True]
        jobs = {reply.body["job_id"] for reply in answers if reply.good} | {reply.body["job_id"] for reply in again}
        assert sorted(client.job(job).body["spec"]["payload"] for job in jobs) == list(range(TOGETHER_MAX + 2))


def test_where_redis_takes_nothing_at_all_it_is_said_that_nothing_was_sent(
    fleet: Fleet, limited: Callable[[str], str]
) -> None:
    with Client.connect(limited("+@all -hset -rpush"), factory_id="f") as client:
        with pytest.raises(BrokerUnavailable, match="nothing was sent"):
            client.submit_many([SubmitBody() for _ in range(TOGETHER_MAX + 1)])
        assert fleet.redis.llen(rq_queue_key("jobs")) == 0


@pytest.mark.parametrize("last", ["no id", "id-1"])
def test_a_request_id_that_is_wrong_or_stands_twice_is_told_before_anything_is_sent(fleet: Fleet, last: str) -> None:
    ids = [f"id-{number}" for number in range(TOGETHER_MAX)] + [last]
    with Client.connect(fleet.redis_url, factory_id="f") as client:
        with pytest.raises(InvalidRequest, match="request_id"):
            client.submit_many([SubmitBody() for _ in ids], request_ids=ids, timeout_ms=100)
        assert fleet.redis.llen(rq_queue_key("jobs")) == 0


def test_fewer_request_ids_than_jobs_are_told_before_anything_is_sent(fleet: Fleet) -> None:
    with Client.connect(fleet.redis_url, factory_id="f") as client:
        with pytest.raises(InvalidRequest, match="1 of them for 2 jobs"):
            client.submit_many([SubmitBody(), SubmitBody()], request_ids=["id-1"], timeout_ms=100)
        assert fleet.redis.llen(rq_queue_key("jobs")) == 0


def closed_in_a_thread(fleet: Fleet, bodies: Sequence[Submission]) -> list[Reply]:
    client = Client.connect(fleet.redis_url, factory_id="f", attempt_ms=ATTEMPT_MS)
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(client.submit_many, bodies, timeout_ms=ATTEMPT_MS)
        wait_for(lambda: fleet.redis.llen(rq_queue_key("jobs")) == TOGETHER_MAX, "the first are on their way")
        client.close()
        return told.result()


def closed_in_a_loop(fleet: Fleet, bodies: Sequence[Submission]) -> list[Reply]:
    async def main() -> list[Reply]:
        client = await AsyncClient.connect(fleet.redis_url, factory_id="f", attempt_ms=ATTEMPT_MS)
        told = asyncio.ensure_future(client.submit_many(bodies, timeout_ms=ATTEMPT_MS))
        while fleet.redis.llen(rq_queue_key("jobs")) < TOGETHER_MAX:
            await asyncio.sleep(0)
        await client.close()
        return await told

    return asyncio.run(main())


@pytest.mark.parametrize("submit", [closed_in_a_thread, closed_in_a_loop])
def test_a_client_that_is_closed_meanwhile_tells_under_which_ids_to_repeat_them(
    fleet: Fleet, submit: Callable[[Fleet, Sequence[Submission]], list[Reply]]
) -> None:
    answers = submit(fleet, [SubmitBody() for _ in range(TOGETHER_MAX + 2)])
    assert Counter(reply.answer for reply in answers) == {Word.OUTCOME_UNKNOWN: TOGETHER_MAX + 2}
    assert len({reply.request_id for reply in answers}) == TOGETHER_MAX + 2
