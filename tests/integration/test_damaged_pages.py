"""A page of the SQLite file that a bad disk has damaged: it concerns the requests that need it, and no others."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from broker import batch
from datastore import connect
from tests.caller import Reply
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
    went_on_at = path.read_bytes().index(b"x" * 4_092) - 4  # a page that holds nothing else but where the text goes on
    with path.open("r+b") as file:
        file.seek(went_on_at)
        file.write(b"\xff" * 4)
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
