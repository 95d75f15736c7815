"""A page of the SQLite file that a bad disk has damaged: it concerns the requests that need it, and no others."""

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from broker import batch, renewing
from broker.controls import Controls
from broker.earlier_grants import EarlierGrants
from datastore import Corrupt, connect
from datastore.sqlite import SqliteDatastore
from tests.caller import Reply
from tests.damaged_pages import PAGE_BYTES, damage
from tests.in_process import InProcess

TOGETHER = pytest.mark.parametrize("others", [1, 6], ids=["read as they come", "read ahead"])


@pytest.fixture
def path(redis_client: redis.Redis, tmp_path: Path) -> Path:
    """Of a store with some jobs, one of which can't be read whole."""
    path = tmp_path / "jobs.db"
    with closing(connect(f"sqlite:///{path}")) as store:
        broker = InProcess(store, redis_client)
        broker.submit("damaged", payload="x" * 30_000)
        broker.submit(*(f"healthy-{number}" for number in range(6)))
    damage(path, where=b"x" * (PAGE_BYTES - 4))  # pages that hold nothing else but where the text goes on
    return path


def claimed_together(path: Path, redis_client: redis.Redis, *, others: int) -> list[Reply]:
    """What the claim of the damaged job is told, then the others."""
    with closing(connect(f"sqlite:///{path}")) as store:
        broker = InProcess(store, redis_client)
        jobs = ["damaged", *(f"healthy-{number}" for number in range(others))]
        return broker.ask(*(broker.caller.make("claim", job_id=job) for job in jobs))


@TOGETHER
def test_a_damaged_page_fails_whoever_needs_it_and_nobody_else_of_its_batch(
    path: Path, redis_client: redis.Redis, others: int
) -> None:
    damaged, *rest = claimed_together(path, redis_client, others=others)
    assert (damaged["answer"], damaged["reason"], damaged["retry"]) == ("invalid", "corrupt", "final")
    assert [reply["answer"] for reply in rest] == ["granted"] * others
    with closing(connect(f"sqlite:///{path}")) as store:
        broker = InProcess(store, redis_client)
        ends = [broker.caller.make("complete", **lease_of(reply)) for reply in rest]
        *ended, again = broker.ask(*ends, broker.caller.make("claim", job_id="damaged"))
        assert [reply["answer"] for reply in ended] == ["ok"] * others
        assert again["reason"] == "corrupt"


@TOGETHER
def test_were_damage_the_failure_of_the_whole_group_the_others_would_be_refused_too(
    path: Path, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    # The twin of the test above.
    monkeypatch.setattr(batch, "Corrupt", NeverMet)
    replies = claimed_together(path, redis_client, others=others)
    assert [reply["answer"] for reply in replies] == ["invalid"] * (1 + others)


class NeverMet(Exception):
    """Nobody raises it."""


def lease_of(reply: Reply) -> dict[str, Any]:
    return {name: reply["body"][name] for name in ("job_id", "epoch", "token")}


LOCKS = [f"{number:03}" + "y" * 250 for number in range(64)]
"""Of a job whose own document does not fit on one page."""


@contextmanager
def opened(path: Path, redis_client: redis.Redis) -> Iterator[InProcess]:
    with closing(connect(f"sqlite:///{path}")) as store:
        yield InProcess(store, redis_client)


def renewed_together(path: Path, redis_client: redis.Redis, *, damaged: int, of: int) -> Reply:
    """What a client is told that renews all its leases with one message, one of which can't be read any more."""
    jobs = [f"job-{number}" for number in range(of)]
    with opened(path, redis_client) as broker:
        for number, job in enumerate(jobs):
            broker.submit(job, locks=LOCKS if number == damaged else [])
        leases = [lease_of(reply) for reply in broker.ask(*(broker.caller.make("claim", job_id=job) for job in jobs))]
    damage(path, where=LOCKS[30].encode())
    with opened(path, redis_client) as broker:
        return broker.ask(broker.caller.make("renew_many", leases=leases))[0]


@pytest.mark.parametrize(("damaged", "of"), [(0, 2), (1, 3), (8, 9)])
def test_a_client_whose_leases_are_renewed_with_one_message_keeps_all_that_can_be_read(
    tmp_path: Path, redis_client: redis.Redis, damaged: int, of: int
) -> None:
    reply = renewed_together(tmp_path / "jobs.db", redis_client, damaged=damaged, of=of)
    told = [(result["job_id"], result["answer"]) for result in reply["body"]["results"]]
    assert told == [(f"job-{number}", "invalid" if number == damaged else "renewed") for number in range(of)]
    assert reply["body"]["results"][damaged]["reason"] == "corrupt"


def test_were_such_a_message_not_taken_apart_the_client_would_lose_all_of_them(
    tmp_path: Path, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The twin of the test above.
    monkeypatch.setattr(renewing, "halves", lambda _request: [])
    reply = renewed_together(tmp_path / "jobs.db", redis_client, damaged=1, of=3)
    assert (reply["answer"], reply["retry"]) == ("invalid", "final")


def test_a_claim_of_several_jobs_is_granted_those_that_can_be_read(tmp_path: Path, redis_client: redis.Redis) -> None:
    path = tmp_path / "jobs.db"
    with opened(path, redis_client) as broker:
        broker.submit("a")
        broker.submit("damaged", locks=LOCKS)
        broker.submit("b")
    damage(path, where=LOCKS[30].encode())
    with opened(path, redis_client) as broker:
        [reply] = broker.ask(broker.caller.make("claim", count=3))
        assert sorted(grant["job_id"] for grant in reply["body"]["grants"]) == ["a", "b"]
        assert broker.ask(broker.caller.make("claim"))[0]["answer"] == "none_available"


def claimed_at_a_limit(path: Path, redis_client: redis.Redis) -> list[str]:
    """What two claims are told of which a limit admits one, beside a look at a job that can't be read."""
    with opened(path, redis_client) as broker:
        assert broker.ask(broker.caller.make("set_limit", limit="key:db", capacity=1))[0]["answer"] == "ok"
        broker.submit("a", "b", concurrency=["db"])
        broker.submit("damaged", locks=LOCKS)
    damage(path, where=LOCKS[30].encode())
    with opened(path, redis_client) as broker:
        asked = [
            *(broker.caller.make("claim", job_id=job) for job in "ab"),
            broker.caller.make("get_job", job_id="damaged"),
        ]
        return [reply["answer"] for reply in broker.ask(*asked)]


def test_a_claim_is_not_refused_for_what_it_was_granted_in_a_group_that_came_to_nothing(
    tmp_path: Path, redis_client: redis.Redis
) -> None:
    assert claimed_at_a_limit(tmp_path / "jobs.db", redis_client) == ["granted", "not_claimable", "invalid"]


def test_would_the_batch_remember_that_group_the_limit_would_be_full_with_nobody(
    tmp_path: Path, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The twin of the test above.
    monkeypatch.setattr(Controls, "forget", lambda _controls: None)
    assert claimed_at_a_limit(tmp_path / "jobs.db", redis_client) == ["not_claimable", "not_claimable", "invalid"]


def swept(path: Path, redis_client: redis.Redis) -> list[str]:
    """The states, after a sweep, of a job whose lease has expired and of one that is due; another can't be read."""
    with opened(path, redis_client) as broker:
        broker.submit("expired")
        broker.submit("damaged", locks=LOCKS)
        broker.submit("due", not_before_ms=broker.clock.now_ms() + 1_000)
        broker.ask(*(broker.caller.make("claim", job_id=job) for job in ("expired", "damaged")))
    damage(path, where=LOCKS[30].encode())
    with opened(path, redis_client) as broker:
        broker.clock.advance(3_600_000)
        with suppress(Corrupt):
            broker.sweep()
        asked = [broker.caller.make("get_job", job_id=job) for job in ("expired", "due")]
        return [reply["body"]["job"]["state"] for reply in broker.ask(*asked)]


def test_a_sweep_finds_what_can_be_read(tmp_path: Path, redis_client: redis.Redis) -> None:
    assert swept(tmp_path / "jobs.db", redis_client) == ["ready", "ready"]


def test_did_a_search_fail_with_the_page_that_it_meets_no_lease_would_ever_be_reaped(
    tmp_path: Path, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The twin of the test above.
    def failed(*_: object) -> list[Any]:
        raise Corrupt("damaged")

    monkeypatch.setattr(SqliteDatastore, "_one_by_one", failed)
    assert swept(tmp_path / "jobs.db", redis_client) == ["leased", "scheduled"]


def told_again(path: Path, redis_client: redis.Redis) -> Reply:
    """What a claim is told that comes again, and whose job can't be read any more; another one is free."""
    with opened(path, redis_client) as broker:
        broker.submit("damaged", locks=LOCKS)
        claim = broker.caller.make("claim")
        assert broker.ask(claim)[0]["answer"] == "granted"
        broker.submit("free")
    damage(path, where=LOCKS[30].encode())
    redis_client.flushall()
    with opened(path, redis_client) as broker:
        broker.sweep()
        return broker.ask(claim.model_copy(update={"attempt": 2}))[0]


def test_a_claim_whose_job_may_be_the_one_that_can_not_be_read_is_granted_no_other(
    tmp_path: Path, redis_client: redis.Redis
) -> None:
    reply = told_again(tmp_path / "jobs.db", redis_client)
    assert (reply["answer"], reply["reason"]) == ("outcome_unknown", "store")


def test_were_that_not_heeded_one_claim_would_have_two_jobs(
    tmp_path: Path, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The twin of the test above.
    monkeypatch.setattr(EarlierGrants, "of", lambda *_, **__: None)
    assert told_again(tmp_path / "jobs.db", redis_client)["body"]["job_id"] == "free"
