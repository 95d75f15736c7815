"""What a Cosmos container that is made here has an index of. The emulator ignores it, but for the composite index."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from azure.cosmos import CosmosClient, PartitionKey

from broker.searches import SEARCHED, search
from broker.settings import load
from datastore import AtMost
from datastore.cosmos import CosmosDatastore
from datastore.cosmos_account import EMULATOR_KEY, PARTITION_KEY_PATH, CosmosAddress, indexing_policy
from datastore.cosmos_query import build_query
from datastore.interface import Filter
from datastore.memory import MemoryDatastore
from tests.architecture.source import ROOT, modules
from workers.runtime import open_store

needs_emulator = pytest.mark.cosmos

EVERYTHING = indexing_policy(None)
"""What a container was made with before this release, and is where it is not known what is searched for."""


def indexed(policy: Mapping[str, Any], path: str) -> bool:
    """Whether the index of the service has this path of an item: the more precise of an in- and an exclusion counts."""
    included = {each["path"] for each in policy["includedPaths"]}
    excluded = {each["path"] for each in policy["excludedPaths"]}
    assert ("/*" in included) != ("/*" in excluded), "the service wants to be told of all the rest"
    return f"{path}/?" in included or (f"{path}/?" not in excluded and "/*" in included)


def without_index(policy: Mapping[str, Any], filter: Filter) -> list[str]:
    """What of a search the index can't answer."""
    names = ("pk" if field == "partition_key" else field.replace(".", "/") for field in filter)
    return [name for name in names if not indexed(policy, f"/{name}")]


def test_the_index_has_what_is_searched_for_and_ordered_by_and_nothing_else() -> None:
    policy = indexing_policy(SEARCHED)
    assert without_index(policy, {**dict.fromkeys(SEARCHED, 1), "partition_key": "p"}) == []
    assert len(policy["includedPaths"]) == len(SEARCHED) + 2, "and pk and id, which pages are ordered by"
    assert indexed(policy, "/id")
    for path in ("payload", "result", "progress", "holders", "moments", "lease/token", "recent_requests", "last_end"):
        assert not indexed(policy, f"/{path}")
        assert indexed(EVERYTHING, f"/{path}")


@pytest.mark.parametrize("filter", [{}, {"state": "ready"}])
@pytest.mark.parametrize("policy", [indexing_policy(SEARCHED), EVERYTHING], ids=["searched", "everything"])
def test_two_fields_that_pages_are_ordered_by_have_an_index_together(filter: Filter, policy: Mapping[str, Any]) -> None:
    ordered = [name.removeprefix("c.") for name in build_query(filter, None).order.split(", ")]
    [composite] = policy["compositeIndexes"]
    assert [(each["path"], each["order"]) for each in composite] == [(f"/{name}", "ascending") for name in ordered]


def test_a_search_by_anything_else_is_found_out_by_whatever_test_makes_it() -> None:
    with pytest.raises(AssertionError, match=r"\['lease\.granted_ms'\] is not among SEARCHED"):
        search(MemoryDatastore(), {"state": "leased", "lease.granted_ms": AtMost(5)}, limit=1)
    assert without_index(indexing_policy(SEARCHED), {"state": "leased", "lease.granted_ms": 5}) == ["lease/granted_ms"]


def test_whatever_searches_does_so_in_the_one_place_that_knows_what_for() -> None:
    searching = {module.name for module in modules() for call in module.calls() if call.endswith("store.find")}
    assert {name for name in searching if not name.startswith("datastore/")} == {"broker/searches.py"}


def test_nothing_is_indexed_that_nobody_searches_for() -> None:
    sources = "".join(
        module.path.read_text(encoding="utf-8")
        for module in modules("broker", "workers")
        if module.name != "broker/searches.py"
    )
    assert [field for field in SEARCHED if f'"{field}": ' not in sources and f'["{field}"]' not in sources] == []


@pytest.mark.parametrize("path", ["sta-te", "state/?", "", "a..b", 'a"b'])
def test_a_path_that_the_service_would_read_as_something_else_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="no dotted path"):
        indexing_policy([path])


def test_what_other_tools_are_given_is_what_the_broker_makes() -> None:
    published = json.loads((ROOT / "examples/compose/cosmos-index.json").read_text(encoding="utf-8"))
    assert published == indexing_policy(SEARCHED)


@needs_emulator
def test_a_worker_that_makes_the_container_indexes_what_it_searches_for(cosmos_url: str) -> None:
    open_store(load(datastore_url=cosmos_url), cosmos_url).close()
    assert _kept(cosmos_url)["includedPaths"] == indexing_policy(SEARCHED)["includedPaths"]


@needs_emulator
def test_a_container_that_indexes_everything_is_served_as_it_is(cosmos_url: str) -> None:
    address = CosmosAddress.parse(cosmos_url)
    with CosmosClient(address.endpoint, EMULATOR_KEY) as client:
        database = client.create_database(address.database)
        database.create_container(address.container, PartitionKey(PARTITION_KEY_PATH), indexing_policy=dict(EVERYTHING))
    before = _kept(cosmos_url)
    for url in (cosmos_url, cosmos_url.replace("&create=1", "")):
        store = open_store(load(datastore_url=url), url)
        assert search(store, {"kind": "job", "lease.expires_ms": AtMost(5)}, limit=1).documents == ()
        store.close()
    assert _kept(cosmos_url) == before


@needs_emulator
def test_a_search_by_what_has_no_index_finds_it_all_the_same(cosmos_url: str) -> None:
    store = CosmosDatastore.from_url(cosmos_url, searched=["state"])
    store.create("a", "a", {"state": "ready", "weight": 5})
    assert [found.id for found in store.find({"weight": AtMost(5)}).documents] == ["a"]
    store.close()


def _kept(url: str) -> dict[str, Any]:
    """The policy that a container has."""
    address = CosmosAddress.parse(url)
    with CosmosClient(address.endpoint, EMULATOR_KEY) as client:
        container = client.get_database_client(address.database).get_container_client(address.container)
        policy: dict[str, Any] = container.read()["indexingPolicy"]
        return policy
