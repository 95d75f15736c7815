"""Of many starts of a factory one is registered, each lease ends once, and a lease is handed to one: on every store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from datastore import Datastore, connect
from datastore.cosmos import CosmosDatastore
from tests.concurrency.starts import race_of_hand_overs, race_of_starts
from tests.concurrency.test_twins_are_caught import at_version
from tests.twins.read_check_write import ReadCheckWrite

ROUNDS = 3


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'jobs.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Datastore]:
    opened = connect(url)
    yield opened
    opened.close()


def test_of_32_starts_at_once_one_is_registered_and_the_earlier_lease_ends_once(store: Datastore) -> None:
    assert race_of_starts(store) == []


@pytest.mark.parametrize("_round", range(ROUNDS))
def test_of_32_hand_overs_at_once_one_takes_effect_and_its_heir_alone_is_granted(store: Datastore, _round: int) -> None:
    assert race_of_hand_overs(store) == []


@pytest.mark.cosmos
def test_both_hold_on_cosmos(cosmos_store: CosmosDatastore) -> None:
    assert race_of_starts(cosmos_store) == []
    assert race_of_hand_overs(cosmos_store) == []


def test_a_store_that_checks_and_then_writes_ends_one_lease_twice(store: Datastore) -> None:
    faults = race_of_starts(ReadCheckWrite(store, gap=at_version(2)))
    assert any("starts ended the one lease" in fault for fault in faults), faults


def test_a_store_that_checks_and_then_writes_hands_one_lease_to_several(store: Datastore) -> None:
    faults = race_of_hand_overs(ReadCheckWrite(store, gap=at_version(2)))
    assert any("hand-overs took effect" in fault for fault in faults), faults
