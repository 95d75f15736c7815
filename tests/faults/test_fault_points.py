"""Fault points do nothing unless a process's own environment arms them, and says that it is meant."""

import re
from pathlib import Path

import pytest

from broker.settings import SettingsError, load
from tests.architecture.source import modules
from workers.fault_points import POINTS, FaultsRefused, armed, nowhere
from workers.lean_redis import LeanRedis
from workers.runtime import StartError, open_runtime


def test_a_process_without_faults_passes_its_points_with_the_plain_store_and_connection(redis_url: str) -> None:
    runtime = open_runtime(load(redis_url=redis_url, datastore_url="memory://"))
    try:
        assert runtime.at is nowhere
        assert type(runtime.store).__module__.startswith("datastore.")
        assert type(runtime.connection) is LeanRedis
    finally:
        runtime.close()


def test_faults_that_are_not_said_to_be_meant_stop_the_process_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_FAULTS", "taken@1")
    with pytest.raises(SettingsError, match="BROKER_FAULTS_ALLOWED"):
        load()


def test_an_unknown_point_stops_the_process_at_its_start(redis_url: str, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'jobs.db'}"
    settings = load(redis_url=redis_url, datastore_url=store, faults="nowhere@1", faults_allowed=True)
    with pytest.raises(StartError, match="taken"):
        open_runtime(settings)


@pytest.mark.parametrize("faults", ["taken", "taken@", "taken@0", "taken@-1", "taken@x", "@1", "taken@1@2"])
def test_a_point_needs_its_passing(faults: str) -> None:
    with pytest.raises(FaultsRefused):
        armed(faults)


def test_a_process_is_killed_at_the_passing_that_was_named_and_at_no_other_point() -> None:
    killed: list[str] = []
    at = armed("read@2", kill=lambda: killed.append("here"))
    for point in ("reading", "read", "written", "read", "read"):
        at(point)
    assert killed == ["here"]


def test_each_point_is_passed_by_one_line_of_the_product() -> None:
    text = "".join(module.path.read_text(encoding="utf-8") for module in modules("workers"))
    passed = re.findall(r'at\("(\w+)"\)|before, after = "(\w+)", "(\w+)"', text)
    names = [name for found in passed for name in found if name]
    assert sorted(names) == sorted(POINTS)
