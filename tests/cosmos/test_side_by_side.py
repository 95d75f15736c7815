"""A batch on Cosmos DB goes on side by side: on few connections that are kept, with the answers of a sound order."""

import pytest
import redis

from datastore.cosmos import CosmosDatastore
from datastore.cosmos_account import CONNECTIONS_MAX
from tests.caller import Caller
from tests.concurrency.race import read
from tests.cosmos.fault_proxy import FaultProxy
from tests.in_process import InProcess

pytestmark = pytest.mark.cosmos

BATCH = 64


def test_of_64_claims_in_one_batch_each_job_has_the_first_for_its_winner_on_sixteen_connections(
    redis_client: redis.Redis, cosmos_store: CosmosDatastore, cosmos_proxy: FaultProxy
) -> None:
    broker = InProcess(cosmos_store, redis_client)
    jobs = [f"job-{number}" for number in range(BATCH // 2)]
    broker.submit(*jobs)
    first, second = (Caller(redis_client, name) for name in ("first", "second"))
    claims = [caller.make("claim", job_id=job) for caller in (first, second) for job in jobs]
    first.send(*claims)
    hand = broker.take()
    assert len(hand.entries) == BATCH, "it is one batch"
    broker.finish(broker.settle(hand.entries))
    won, lost = first.replies(*claims[: BATCH // 2]), second.replies(*claims[BATCH // 2 :])
    assert [reply["answer"] for reply in won] == ["granted"] * len(jobs)
    assert [reply["body"]["job_id"] for reply in won] == jobs
    assert {(reply["answer"], reply["body"]["holder"]) for reply in lost} == {("conflict", "first")}
    assert {(job.epoch, job.lease and job.lease.factory_id) for job in (read(cosmos_store, id) for id in jobs)} == {
        (1, "first")
    }
    assert 1 < cosmos_proxy.connections() <= CONNECTIONS_MAX
