"""What SQLite is asked for one claim and for a batch of them: a statement more is a tenth of a lone claim's wait."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from broker.repository import INDEXES
from datastore.sqlite import SqliteDatastore
from tests.in_process import InProcess


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteDatastore]:
    opened = SqliteDatastore(tmp_path / "jobs.db", indexes=INDEXES)
    yield opened
    opened.close()


@pytest.fixture
def broker(store: SqliteDatastore, redis_client: redis.Redis) -> InProcess:
    return InProcess(store, redis_client)


def asked(store: SqliteDatastore, broker: InProcess, *jobs: str) -> Counter[str]:
    """The statements for one batch of claims by name, by their first word. All are granted."""
    writer, reader = store._session._writer, store._session._reader
    assert writer is not None
    statements: list[str] = []
    for connection in filter(None, (writer, reader)):
        connection.set_trace_callback(statements.append)
    replies = broker.ask(*(broker.caller.make("claim", job_id=job) for job in jobs))
    assert {reply["answer"] for reply in replies} == {"granted"}
    assert store._session._reader is reader, "nothing is read outside the batch"
    return Counter(statement.split()[0] for statement in statements)


def test_a_claim_by_name_is_one_transaction_and_nothing_outside_it(store: SqliteDatastore, broker: InProcess) -> None:
    broker.submit("a")
    assert asked(store, broker, "a") == {"BEGIN": 1, "SELECT": 4, "UPDATE": 1, "COMMIT": 1}


def test_claims_of_a_batch_are_read_by_one_statement(store: SqliteDatastore, broker: InProcess) -> None:
    jobs = [f"job-{number}" for number in range(64)]
    broker.submit(*jobs)
    assert asked(store, broker, *jobs) == {"BEGIN": 1, "SELECT": 1, "UPDATE": 64, "COMMIT": 1}
