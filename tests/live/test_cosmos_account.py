"""A live account of Cosmos DB, `cosmos://HOST/DATABASE/CONTAINER`: with LIVE_COSMOS_KEY, or through Entra without."""

import os
from collections.abc import Iterator
from uuid import uuid4

import pytest
import redis

from broker.repository import INDEXES
from datastore import Datastore, connect
from datastore.contract import run_checks
from tests.in_process import InProcess
from tests.live.reporting import needs

pytestmark = needs("a live Cosmos DB account", "LIVE_COSMOS_URL")


@pytest.fixture(scope="module")
def account() -> Iterator[Datastore]:
    """The container; it must exist."""
    store = connect(os.environ["LIVE_COSMOS_URL"], indexes=INDEXES, cosmos_key=os.environ.get("LIVE_COSMOS_KEY"))
    yield store
    store.close()


def test_the_whole_store_contract_holds(account: Datastore) -> None:
    findings = list(run_checks(account))
    assert findings
    assert [(finding.name, finding.failure) for finding in findings if finding.failure is not None] == []


def test_a_job_lives_and_a_stale_holder_is_refused(account: Datastore, redis_client: redis.Redis) -> None:
    broker, job_id = InProcess(account, redis_client), f"live-{uuid4().hex}"
    broker.submit(job_id)
    [first] = broker.ask(broker.caller.make("claim", job_id=job_id))
    old = {name: first["body"][name] for name in ("job_id", "epoch", "token")}
    assert broker.ask(broker.caller.make("release", **old))[0]["answer"] == "ok"
    [second] = broker.ask(broker.caller.make("claim", job_id=job_id))
    assert second["body"]["epoch"] == first["body"]["epoch"] + 1
    assert broker.ask(broker.caller.make("complete", **old))[0]["answer"] == "lease_lost"
    new = {name: second["body"][name] for name in ("job_id", "epoch", "token")}
    assert broker.ask(broker.caller.make("complete", **new))[0]["answer"] == "ok"
