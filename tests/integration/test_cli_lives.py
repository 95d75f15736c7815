"""The lives of jobs on the command line: dead letters, redrives, schedules, keys, deadlines of runs, stuck runs."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from datastore import Expected, Ok, connect
from tests.commands import Commands
from tests.home import Home, fence
from tests.processes import wait_for

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def fleet(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A folder in which a broker runs that sweeps often."""
    home = Home(
        tmp_path_factory.mktemp("lives"),
        {"BROKER_SWEEP_INTERVAL_MS": "300", "BROKER_BACKOFF_MAX_MS": "1000"},
        run=commands.run,
    )
    assert home.json("up", "--detach")[0] == 0
    yield home
    assert home.json("down")[0] == 0


def state(home: Home, job: str) -> str:
    return str(home.json("job", job)[1]["job"]["state"])


def dies(home: Home, job: str, queue: str, error: str) -> None:
    home.submit(id=job, queue=queue, max_failures=1)
    grant = home.claim(queue)
    assert home.json("fail", *fence(grant), "--error", error)[0] == 0


def test_dead_jobs_are_listed_with_the_reason_and_all_runs(fleet: Home) -> None:
    fleet.submit(id="twice", queue="dead", max_failures=2)
    assert fleet.json("fail", *fence(fleet.claim("dead")), "--error", "first")[0] == 0
    assert fleet.json("fail", *fence(fleet.claim("dead", "--wait", "10")), "--error", "second")[0] == 0
    dies(fleet, "elsewhere", "other", "broke")
    [dead] = fleet.lines("dead", "--queue", "dead")
    assert (dead["job_id"], dead["reason"]) == ("twice", "second")
    assert [(run["epoch"], run["error"]) for run in dead["runs"]] == [(1, "first"), (2, "second")]
    status, shown, _ = fleet.run("dead")
    assert status == 0
    assert "twice" in shown
    assert "elsewhere" in shown
    assert "epoch 2  f1  failed" in shown


def test_the_runs_of_a_job_are_listed_over_all_their_pages(fleet: Home) -> None:
    fleet.submit(id="often", queue="often")
    store = connect(f"sqlite:///{fleet.path / '.broker' / 'broker.db'}")
    run: dict[str, Any] = {
        "kind": "run",
        "job_id": "often",
        "factory_id": "f",
        "incarnation": "i",
        "request_id": "r",
        "started_ms": 1,
    }
    ended: dict[str, Any] = {"ended_ms": 2, "outcome": "failed", "error": "é" * 8_000, "write_id": "w"}
    for epoch in range(1, 151):
        assert isinstance(store.create(f"often:run:{epoch}", "often", {**run, "epoch": epoch, **ended}), Ok)
    found = store.read("often", "often")
    assert isinstance(found, Ok)
    store.update_if_match("often", "often", Expected(etag=found.document.etag), {"epoch": 150, "write_id": "w"})
    store.close()
    for limit, first in ((), 1), (("--limit", "0"), 1), (("--limit", "149"), 2), (("--limit", "7"), 144):
        assert [each["epoch"] for each in fleet.lines("runs", "often", *limit)] == list(range(first, 151))
    assert "the latest 7; --limit 0 lists all" in fleet.run("runs", "often", "--limit", "7")[2]


def test_a_dry_run_says_what_is_wrong_with_a_job_that_can_not_be_read_and_goes_on(fleet: Home) -> None:
    dies(fleet, "spoilt", "dry", "broke")
    dies(fleet, "sound", "dry", "broke")
    store = connect(f"sqlite:///{fleet.path / '.broker' / 'broker.db'}")
    found = store.read("spoilt", "spoilt")
    assert isinstance(found, Ok)
    store.update_if_match("spoilt", "spoilt", Expected(etag=found.document.etag), {"epoch": "one", "write_id": "x"})
    store.close()
    status, out, _ = fleet.run("redrive", "spoilt", "sound", "nowhere", "--dry-run", "--json")
    spoilt, sound, nowhere = map(json.loads, out.splitlines())
    assert (status, spoilt["answer"], spoilt["reason"]) == (1, "invalid", "corrupt")
    assert (sound["would_redrive"], nowhere["would_redrive"], nowhere["state"]) == (True, False, "not_found")


def test_the_exit_status_for_several_jobs_is_the_highest_of_their_answers(fleet: Home) -> None:
    held = fleet.submit(id="runs", queue="statuses")
    fleet.claim("statuses")
    assert [fleet.run("redrive", job)[0] for job in (held, "nowhere")] == [5, 1]
    assert [fleet.run("redrive", *jobs)[0] for jobs in ((held, "nowhere"), ("nowhere", held))] == [5, 5]
    again = '{"id": "runs"}\n{"id": "one-more"}'
    assert fleet.run("submit", "-", "no-such-file", input=again)[0] == 5


def test_redrive_takes_one_several_or_all_that_fit_and_a_dry_run_changes_nothing(fleet: Home) -> None:
    for job in ("r1", "r2", "r3"):
        dies(fleet, job, "again", "broke")
    assert fleet.json("cancel", fleet.submit(id="gone", queue="again"), "--reason", "enough")[0] == 0
    everything = ("redrive", "--all", "--queue", "again")
    planned = fleet.lines(*everything, "--dry-run")
    assert [(each["job_id"], each["would_redrive"], each["reason"]) for each in planned] == [
        (job, True, "broke") for job in ("r1", "r2", "r3")
    ]
    assert fleet.lines(*everything, "--older-than", "1h") == []
    assert fleet.lines(*everything, "--outcome", "timed_out") == []
    assert fleet.run(*everything, "--outcome", "timed_out", "--dry-run") == (0, "", "0 jobs fit\n")
    assert [each["job_id"] for each in fleet.lines(*everything, "--state", "cancelled", "--dry-run")] == ["gone"]
    assert [state(fleet, job) for job in ("r1", "r2", "r3", "gone")] == ["failed"] * 3 + ["cancelled"]
    assert [each["answer"] for each in fleet.lines("redrive", "r1", "r2")] == ["ok", "ok"]
    assert [each["job_id"] for each in fleet.lines(*everything, "--outcome", "failed")] == ["r3"]
    assert [state(fleet, job) for job in ("r1", "r2", "r3", "gone")] == ["ready"] * 3 + ["cancelled"]
    assert fleet.run("redrive")[0] == 2
    assert fleet.run("redrive", "r1", "--all")[0] == 2
    assert fleet.run("redrive", "r1", "--queue", "again")[0] == 2
    assert fleet.run("redrive", "gone", "r1")[0] == 5  # r1 is ready, and was reported


def test_requests_that_made_no_sense_are_another_list(fleet: Home) -> None:
    endpoint = json.loads((fleet.path / ".broker" / "up.json").read_bytes())
    with redis.Redis.from_url(endpoint["redis_url"]) as connection:
        connection.rpush("broker:in:jobs", '{"op": "nonsense", "request_id": "r-1"}')
    wait_for(lambda: fleet.lines("refused"), "the request is put aside", deadline_ms=10_000)
    [letter] = fleet.lines("refused")
    assert "nonsense" in letter["entry"]
    assert letter["wire"] == "intake"
    assert "nonsense" in fleet.run("refused")[1]
    assert "refused requests 1\n" in fleet.run("status")[1]


def test_a_schedule_is_added_shown_paused_resumed_and_removed(fleet: Home) -> None:
    (fleet.path / "nightly.md").write_text("---\nqueue: nightly\n---\nClean up.\n")
    add = ("schedule", "add", "nightly", "nightly.md", "--cron", "0 2 * * *", "--tz", "Europe/Berlin")
    status, out, _ = fleet.run(*add, "--catch-up", "none", "--json")
    assert (status, json.loads(out)["state"]) == (0, "active")
    assert fleet.run(*add)[0] == 5
    assert fleet.run(*add[:-2], "--replace")[0] == 0, "it keeps its zone"
    [listed] = fleet.lines("schedule", "list")
    assert (listed["name"], listed["cron"], listed["tz"], listed["catch_up"]) == (
        "nightly", "0 2 * * *", "Europe/Berlin", "none",
    )  # fmt: skip
    [shown] = fleet.lines("schedule", "show", "nightly")
    assert shown["job"]["payload"] == {"params": {}, "body": "Clean up.\n"}
    for command, expected in (("pause", "paused"), ("resume", "active")):
        assert fleet.run("schedule", command, "nightly")[0] == 0
        assert fleet.lines("schedule", "list")[0]["state"] == expected
    assert fleet.run("schedule", "remove", "nightly")[0] == 0
    assert fleet.lines("schedule", "list") == []
    assert fleet.run("schedule", "show", "nightly")[0] == 1


@pytest.mark.parametrize(
    ("text", "more", "names"),
    [
        ("queue: q", ["--cron", "61 * * * *"], "minute"),
        ("queue: q", ["--cron", "* * * * *", "--tz", "Mars"], "time zone"),
        (
            "id: mine",
            ["--cron", "* * * * *"],
            "a schedule names its jobs and says when: remove `id`",
        ),
        ("not_before: +10m", ["--cron", "* * * * *"], "not_before"),
        ("queue: q", ["--cron", "* * * * *", "--catch-up", "some"], "none, last, all"),
    ],
)
def test_a_schedule_that_can_not_be_is_refused_with_the_reason(
    fleet: Home, text: str, more: list[str], names: str
) -> None:
    (fleet.path / "bad.md").write_text(f"---\n{text}\n---\n")
    status, out, problem = fleet.run("schedule", "add", "bad", "bad.md", *more)
    assert status in (1, 2)
    assert names in out + problem
    assert fleet.lines("schedule", "list") == []


def test_parents_keys_and_policies_are_written_in_job_files(fleet: Home) -> None:
    (fleet.path / "child.md").write_text(
        "---\nid: child\nqueue: family\ndepends_on: parent\non_parent_failure: cancel\n"
        "unique: {key: family, policy: join}\nsupersedes: family\n---\n"
    )
    assert fleet.json("submit", "child.md")[1]["state"] == "blocked"
    shown = fleet.run("job", "child")[1]
    assert "parent (not submitted yet)" in shown
    fleet.submit(id="parent", queue="family")
    joined = fleet.json("submit", "-", input='{"unique": {"key": "family", "policy": "join"}}')[1]
    assert (joined["job_id"], joined["joined"]) == ("child", True)
    status, refused = fleet.json("submit", "-", input='{"unique": "family"}')
    assert (status, refused["reason"], refused["job_id"]) == (5, "not_unique", "child")
    assert fleet.json("cancel", "parent", "--reason", "not today")[0] == 0
    assert fleet.json("job", "child")[1]["job"]["why"] == "its parent parent was cancelled"
    assert "its parent parent was cancelled" in fleet.run("job", "child")[1]


def test_any_key_of_a_job_file_can_be_set_on_the_command_line(fleet: Home) -> None:
    options = ["--set", "unique=set/web", "--set", 'depends_on=["set-a"]', "--set", "run_timeout=20m", "--id", "set-b"]
    status, out, _ = fleet.run("submit", "-", *options, input='{"payload": 1}')
    assert (status, out.split()) == (0, ["set-b", "blocked"])
    job = fleet.json("job", "set-b")[1]["job"]
    assert (job["unique"], job["depends_on"], job["run_timeout_ms"]) == ("set/web", ["set-a"], 1_200_000)
    for wrong in ("nonsense", "mode=1", "ttl=soon"):
        assert fleet.run("submit", "-", "--set", wrong, input="{}")[0] == 2


def test_a_stuck_run_is_shown_and_a_run_past_its_deadline_ends(fleet: Home) -> None:
    fleet.submit(id="slow", queue="slow", stuck_after_ms=500)
    grant = fleet.claim("slow")
    wait_for(
        lambda: "leased, stuck" in fleet.run("jobs", "--queue", "slow")[1], "the run is flagged", deadline_ms=15_000
    )
    assert "no progress since" in fleet.run("job", "slow")[1]
    assert fleet.json("progress", *fence(grant), "--progress", "1")[0] == 0
    assert fleet.json("complete", *fence(grant))[0] == 0
    fleet.submit(id="long", queue="slow", run_timeout_ms=500, max_failures=1)
    late: Any = fleet.claim("slow")
    wait_for(lambda: state(fleet, "long") == "failed", "the run is ended", deadline_ms=15_000)
    status, lost = fleet.json("renew", *fence(late))
    assert (status, lost["answer"]) == (5, "lease_lost")
    [dead] = fleet.lines("dead", "--queue", "slow")
    assert (dead["runs"][0]["outcome"], dead["reason"]) == ("timed_out", "its run took more than 500 ms")
