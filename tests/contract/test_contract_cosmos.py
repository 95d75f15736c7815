"""The contract on Azure Cosmos DB, played by the emulator."""

from uuid import uuid4

import pytest

from datastore import Datastore
from datastore.contract import ContractViolation, require_conditional_writes
from datastore.cosmos import CosmosDatastore
from tests.contract.test_contract import DatastoreContract
from tests.cosmos.fault_proxy import FaultProxy

pytestmark = pytest.mark.cosmos


class TestCosmos(DatastoreContract):
    @pytest.fixture
    def store(self, cosmos_store: CosmosDatastore) -> Datastore:
        return cosmos_store


def test_the_start_check_accepts_an_account_that_keeps_if_match(cosmos_store: CosmosDatastore) -> None:
    require_conditional_writes(cosmos_store)
    require_conditional_writes(cosmos_store)


def test_the_start_check_refuses_an_account_that_ignores_if_match(cosmos_emulator: int) -> None:
    with FaultProxy(cosmos_emulator, ignore_if_match=True).running() as proxy:
        store = CosmosDatastore.from_url(f"cosmos://127.0.0.1:{proxy.port}/{uuid4().hex}/jobs?http=1&create=1")
        with pytest.raises(ContractViolation, match="ignores If-Match"):
            require_conditional_writes(store)
        store.close()
