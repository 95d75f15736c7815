"""Limits, pauses and holds by the command line, on a real fleet."""

from collections.abc import Iterator

import pytest

from tests.commands import Commands
from tests.home import Home

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def home(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("limits"), run=commands.run)
    assert home.json("up", "--workers", "2", "--detach")[0] == 0
    yield home
    home.run("down")


def test_a_limit_is_set_listed_met_and_removed(home: Home) -> None:
    assert home.run("limit", "set", "queue:builds", "1", "--rate", "30/min")[:2] == (
        0, "queue:builds: 1 at once and 30 in 1 min 0 s, 0 in use\n",
    )  # fmt: skip
    home.submit(id="a", queue="builds")
    home.submit(id="b", queue="builds", concurrency="gpu")
    assert home.json("claim", "a")[0] == 0
    for command in (("claim", "b"), ("claim", "--queue", "builds")):
        status, refused = home.json(*command)
        assert (status, refused["answer"], refused["reasons"]) == (1, "not_claimable", ["quota"])
        assert refused["obstacles"][0]["holders"][0]["job_id"] == "a"
    [listed] = home.lines("limit", "list")
    assert (listed["limit"], listed["capacity"], listed["used"]) == ("queue:builds", 1, 1)
    assert listed["rate"] == {"count": 30, "per_ms": 60_000}
    assert home.run("limit", "remove", "queue:builds")[0] == 0
    assert home.run("limit", "remove", "queue:builds")[0] == 1
    assert home.json("claim", "b")[0] == 0


@pytest.mark.parametrize("wrong", [("queue:x",), ("x", "3"), ("queue:x", "--rate", "5"), ("queue:x", "--rate", "0/s")])
def test_a_wrong_limit_is_a_usage_error(home: Home, wrong: tuple[str, ...]) -> None:
    assert home.run("limit", "set", *wrong)[0] == 2


def test_a_queue_is_paused_with_a_reason_and_resumed(home: Home) -> None:
    home.submit(id="p", queue="paused")
    assert home.run("queue", "pause", "paused", "--reason", "disk full")[0] == 0
    status, refused = home.json("claim", "--queue", "paused")
    assert (status, refused["reason"], refused["obstacles"][0]["why"]) == (1, "paused", "disk full")
    assert [(each["queue"], each["paused"]) for each in home.lines("queue", "list")] == [("paused", True)]
    for command in (
        ["claim", "--queue", "paused", "--wait", "0.2"],
        ["exec", "--queue", "paused", "--wait", "0.2", "--", "true"],
    ):
        status, _, err = home.run(*command)
        assert (status, "`broker explain --factory f1 --queue paused` says why" in err) == (3, True), err
    assert "queue paused is paused since" in home.run("explain", "--factory", "f1", "--queue", "paused")[1]
    assert home.run("queue", "resume", "paused")[0] == 0
    assert home.json("claim", "--queue", "paused")[1]["job_id"] == "p"


def test_a_factory_at_its_own_limit_is_not_told_to_wait(home: Home) -> None:
    home.submit(queue="own")
    assert home.run("limit", "set", "factory:f9", "0")[0] == 0
    status, _, err = home.run("claim", "--factory", "f9", "--queue", "own", "--wait", "10")
    assert status == 1
    assert "limit factory:f9 admits nobody" in err
    assert "--wait" not in err
    assert home.run("limit", "remove", "factory:f9")[0] == 0


def test_a_job_is_held_with_a_reason_and_lifted(home: Home) -> None:
    home.submit(id="h", queue="holds")
    assert home.run("hold", "h", "--reason", "looks wrong")[0] == 0
    status, refused = home.json("claim", "h")
    assert (status, refused["reason"], refused["obstacles"][0]["why"]) == (1, "held", "looks wrong")
    assert home.json("claim", "--queue", "holds")[0] == 3
    assert home.run("lift", "h")[0] == 0
    assert home.json("claim", "--queue", "holds")[1]["job_id"] == "h"
    assert home.run("revoke", "h", "--hold")[0] == 0
    assert home.json("claim", "--queue", "holds")[0] == 3
