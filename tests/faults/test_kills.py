"""A process is killed at each of its points; the next one goes on, and all that was promised holds (design §2)."""

from pathlib import Path

import pytest

from tests.faults import killing, victims
from tests.faults.killing import SWEEP_POINTS, WORKER_POINTS, Broker, kill_a_sweep, kill_a_worker
from tests.faults.twins import TWINS
from workers.fault_points import POINTS

COSMOS_POINTS = ("written", "run_writing", "settled", "replied_partly")
"""Here; `make soak-faults` takes all of them."""


@pytest.fixture(autouse=True)
def _prepared() -> None:
    victims.prepare()


def sqlite(redis_url: str, folder: Path, twin: str = "") -> Broker:
    return Broker(redis_url, f"sqlite:///{folder / 'jobs.db'}", twin)


@pytest.mark.parametrize("point", WORKER_POINTS)
def test_a_worker_killed_at_a_point_loses_nothing_and_answers_nothing_twice(
    redis_url: str, tmp_path: Path, point: str
) -> None:
    assert kill_a_worker(sqlite(redis_url, tmp_path), point) == []


@pytest.mark.parametrize("point", SWEEP_POINTS)
def test_a_sweep_killed_at_a_point_leaves_the_rest_to_the_next(redis_url: str, tmp_path: Path, point: str) -> None:
    assert kill_a_sweep(sqlite(redis_url, tmp_path), point) == []


@pytest.mark.parametrize("point", ["taken", "written", "settled", "replied_partly"])
def test_a_memory_store_is_gone_with_its_worker_and_every_request_is_answered_all_the_same(
    redis_url: str, point: str
) -> None:
    assert kill_a_worker(Broker(redis_url, "memory://"), point) == []


@pytest.mark.cosmos
@pytest.mark.parametrize("point", COSMOS_POINTS)
def test_a_worker_killed_at_a_point_loses_nothing_on_cosmos(redis_url: str, cosmos_url: str, point: str) -> None:
    assert kill_a_worker(Broker(redis_url, cosmos_url), point) == []


@pytest.mark.parametrize(
    ("twin", "point", "found", "patience_ms"),
    [
        ("keeps nothing in flight", "settled", "not: answers to", 2_000),  # nobody will ever answer
        ("answers before it commits", "finished", "I6", 20_000),  # once the other worker has taken over
    ],
)
def test_a_worker_that_forgets_is_found_out(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twin: str, point: str, found: str, patience_ms: int
) -> None:
    monkeypatch.setattr(killing, "ANSWERS_MS", patience_ms)
    assert twin in TWINS
    try:
        wrong = kill_a_worker(sqlite(redis_url, tmp_path, twin), point)
    except AssertionError as unanswered:
        wrong = [str(unanswered)]
    assert any(found in each for each in wrong), wrong


def test_every_point_is_one_where_something_is_killed() -> None:
    assert {*WORKER_POINTS, *SWEEP_POINTS} == set(POINTS)
