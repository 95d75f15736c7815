"""A worker that the store does not let in, for a while: nobody loses a lease or a job by it, and its log says why."""

import pytest
import redis
from structlog.testing import capture_logs

from broker.settings import load
from datastore import Denied
from datastore.cosmos import CosmosDatastore
from datastore.cosmos_account import EMULATOR_KEY
from tests.cosmos.fault_proxy import Fault, FaultProxy
from tests.cosmos.faults import DENIED
from tests.in_process import InProcess
from workers.runtime import StartError, open_store
from workers.store_troubles import Troubles

pytestmark = pytest.mark.cosmos


@pytest.mark.parametrize("fault", DENIED, ids=lambda fault: fault.name)
def test_while_a_worker_is_not_let_in_every_request_is_put_off_and_afterwards_all_is_well(
    cosmos_url: str, cosmos_proxy: FaultProxy, redis_client: redis.Redis, fault: Fault
) -> None:
    store = CosmosDatastore.from_url(cosmos_url, on_trouble=Troubles(lambda: 0))
    broker = InProcess(store, redis_client)
    broker.submit("held", "free")
    make = broker.caller.make
    [granted] = broker.ask(make("claim", job_id="held"))
    lease = {name: granted["body"][name] for name in ("job_id", "epoch", "token")}
    requests = [
        make("submit", job_id="new"),
        make("claim", job_id="free"),
        make("renew", **lease),
        make("progress", **lease, progress=1),
        make("complete", **lease),
    ]
    cosmos_proxy.deny(fault)
    with capture_logs() as logs:
        denied = broker.ask(*requests)
        with pytest.raises(Denied):
            broker.sweep()
    assert {(reply["answer"], reply["reason"]) for reply in denied} == {("throttled", "store")}
    assert [line["log_level"] for line in logs if line["event"] == "store_denied"] == ["error"], "not once a call"
    assert all(reply["body"] == {} for reply in denied), "what an account says is for operators"
    cosmos_proxy.deny(None)
    again = broker.ask(*(request.model_copy(update={"attempt": 2}) for request in requests))
    assert [reply["answer"] for reply in again] == ["ok", "granted", "renewed", "ok", "ok"]
    broker.sweep()
    assert broker.ask(make("claim", job_id="new"))[0]["body"]["epoch"] == 1
    store.close()


@pytest.mark.parametrize("fault", DENIED, ids=lambda fault: fault.name)
def test_a_process_that_is_not_let_in_does_not_start_and_says_what_to_do(
    cosmos_url: str, cosmos_proxy: FaultProxy, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_COSMOS_KEY", EMULATOR_KEY)
    cosmos_proxy.deny(fault)
    with pytest.raises(StartError, match=r"^datastore cosmos://.*: opening 127\.0\.0\.1: .*; (check|there is no) "):
        open_store(load(datastore_url=cosmos_url), cosmos_url)
