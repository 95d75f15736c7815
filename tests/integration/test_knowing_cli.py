"""Explain, events and refusals through the command line, on a fleet that `broker up` started."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import BROKER, Commands
from tests.home import Home, fence
from tests.processes import end, start, wait_for

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def home(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A folder in which a broker runs."""
    home = Home(tmp_path_factory.mktemp("knowing"), run=commands.run)
    assert home.json("up", "--detach")[0] == 0
    yield home
    assert home.json("down")[0] == 0


def _explained(home: Home, *arguments: str) -> tuple[list[str], str]:
    """The reasons as `--json` has them, and what a person reads."""
    status, found = home.json("explain", *arguments)
    assert status == 0
    status, text, err = home.run("explain", *arguments)
    assert (status, err) == (0, "")
    return found["reasons"], text


def test_explain_names_each_reason_in_plain_words(home: Home) -> None:
    holder = home.submit(id="w-1", queue="why", locks=["repo:web"])
    home.claim("why")
    for fields, reason, says in (
        ({"locks": ["repo:web/src"]}, "lock_busy", f"lock repo:web is taken by job {holder} on f1, for another "),
        ({"depends_on": [holder]}, "blocked", f"waits for {holder} (leased on f1, for another "),
        ({"requires": ["gpu"]}, "requirements", "starving: requires gpu"),
        ({"not_before": "2099-01-01T00:00:00Z"}, "scheduled", "not due before 2099-01-01 00:00:00Z"),
    ):
        job = home.submit(queue="why", **fields)
        reasons, text = _explained(home, job)
        assert reasons == [reason], fields
        assert says in text
        assert f"job {job} is " in text.splitlines()[0]
    assert _explained(home, holder)[0] == ["leased"]
    assert "next: wait for it, or take the lease away: broker revoke w-1" in _explained(home, holder)[1]


def test_explain_names_how_a_job_ended_and_what_an_operator_did(home: Home) -> None:
    home.submit(id="over", queue="over")
    home.run("fail", *fence(home.claim("over")), "--error", "no disk", "--final")
    reasons, text = _explained(home, "over")
    assert reasons == ["terminal"]
    assert "over: failed on f1" in text
    assert '"no disk"' in text
    assert "next: start it again: broker redrive over" in text
    home.submit(id="kept", queue="over")
    home.claim("over")
    home.run("revoke", "kept", "--hold", "--reason", "bad host")
    reasons, text = _explained(home, "kept")
    assert reasons == ["held"]
    assert '"bad host"' in text


def test_explain_says_who_asks_where_nothing_stands_in_the_way(home: Home) -> None:
    job = home.submit(queue="quiet")
    reasons, text = _explained(home, job)
    assert reasons == []
    assert "nobody has asked for work of queue quiet" in text
    assert "broker exec --factory NAME --queue quiet -- CMD" in text
    assert home.json("claim", "--factory", "mac-8", "--queue", "asked")[0] == 3
    text = _explained(home, home.submit(queue="asked"))[1]
    command = text.partition("next: broker ")[2].partition(",")[0].split()
    assert command == ["claim", "--factory", "mac-8", "--queue", "asked"]
    assert home.run(*command, env={"BROKER_FACTORY": ""})[0] == 0, "as typed"
    assert home.json("explain", "no-such-job")[0] == 1


def test_explain_says_why_a_factory_has_no_work(home: Home) -> None:
    home.submit(id="big", queue="hosts", requires=["mem_gb>=64"])
    home.submit(id="small", queue="hosts")
    home.claim("hosts", "--offers", "mem_gb=32", factory="mac-9")
    reasons, text = _explained(home, "--factory", "mac-9")
    assert reasons == []
    assert "factory mac-9 offers mem_gb=32; it last asked for work " in text
    assert "holds small at epoch 1" in text
    assert "job big it can't have:\n    - requires mem_gb>=64, which this factory does not offer" in text
    assert _explained(home, "big", "--factory", "mac-9")[0] == ["requirements"]
    assert _explained(home, "big", "--factory", "mac-9", "--offers", "mem_gb=128")[0] == []
    assert home.run("explain")[0] == 2


def test_every_refusal_names_holder_epoch_and_remaining_time(home: Home) -> None:
    home.submit(id="refused", queue="refusals")
    old = home.claim("refusals")
    home.run("release", *fence(old))
    home.claim("refusals", factory="f2")
    for command in (
        ["claim", "refused", "--factory", "f3"],
        ["renew", *fence(old)],
        ["complete", *fence(old)],
        ["fail", *fence(old)],
        ["progress", *fence(old), "--progress", "1"],
    ):
        status, told = home.json(*command)
        assert status == 5, told
        assert (told["holder"], told["epoch"]) == ("f2", 2), told
        assert 0 < told["remaining_ms"] <= 60_000
        status, out, err = home.run(*command)
        assert (status, out) == (5, "")
        assert "epoch 2, held by f2 for another " in err


def test_a_refused_claim_says_what_stands_in_the_way(home: Home) -> None:
    home.submit(id="fussy", queue="fussy", requires=["gpu"])
    status, told = home.json("claim", "fussy", "--offers", "os=mac")
    assert (status, told["obstacles"]) == (1, [{"reason": "requirements", "missing": ["gpu"]}])
    _, _, err = home.run("claim", "fussy")
    assert "  - requires gpu, which this factory does not offer\n" in err
    assert "broker explain fussy" in err


def test_events_tell_a_life_follow_it_and_resume(home: Home) -> None:
    follower = start(
        [*BROKER, "events", "--follow", "--since", "now", "--json", "--job", "watched", "--limit", "6",
         "--state-dir", str(home.path / ".broker")],
        env=home.env,
    )  # fmt: skip
    try:
        url = json.loads((home.path / ".broker" / "up.json").read_text())["redis_url"]
        wait_for(lambda: "cmd=xread" in _clients(url), "the follower reads")
        home.submit(id="watched", queue="watched")
        grant = home.claim("watched")
        home.run("claim", "watched", "--factory", "f2")
        home.run("renew", *fence(grant))
        home.run("complete", *fence(grant))
        home.run("renew", *fence(grant))
        out, _ = follower.communicate(timeout=20)
        assert follower.returncode == 0
    finally:
        end(follower)
    told = [json.loads(line) for line in out.splitlines()]
    names = ["submitted", "claimed", "lost", "renewed", "completed", "refused_stale"]
    assert [event["event"] for event in told] == names
    assert all(event["job_id"] == "watched" and event["request_id"] for event in told)
    assert home.lines("events", "--job", "watched", "--since", told[2]["cursor"]) == told[3:]
    assert home.lines("events", "--job", "watched", "--factory", "f2") == [told[2]]
    status, text, err = home.run("events", "--job", "watched")
    assert (status, grant["token"] in out + text) == (0, False)
    assert f"--since {told[-1]['cursor']}" in err
    assert [line.split()[2] for line in text.splitlines()] == names
    assert home.run("events", "--since", "yesterday")[0] == 2
    [run] = home.lines("runs", "watched")
    assert (run["renewals"], run["outcome"]) == (1, "succeeded")


def test_the_example_goes_on_where_it_stopped(home: Home, tmp_path: Path) -> None:
    url = json.loads((home.path / ".broker" / "up.json").read_text())["redis_url"]
    example = Path(__file__).parents[2] / "examples" / "watch.py"
    kept = tmp_path / "cursor.txt"

    def watch_until(job: str) -> str:
        watching: Any = subprocess.Popen(
            [sys.executable, str(example), str(kept)],
            env={**os.environ, "BROKER_REDIS_URL": url},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            lines = []
            for line in watching.stdout:
                lines.append(line)
                if f" {job} " in line:
                    break
            wait_for(kept.exists, "the cursor is kept")
            return "".join(lines)
        finally:
            end(watching)

    home.submit(id="first-seen", queue="example")
    assert "submitted first-seen" in watch_until("first-seen")
    home.submit(id="seen-later", queue="example")
    assert "seen-later" in watch_until("seen-later")


def _clients(url: str) -> str:
    import redis

    with redis.Redis.from_url(url) as connection:
        return " ".join(f"cmd={each['cmd']}" for each in connection.client_list())


def test_a_start_that_is_over_is_told_how_to_go_on_and_that_works(home: Home) -> None:
    job = home.submit(queue="starts")
    assert home.run("factory", "register", "fac-3")[0] == 0
    assert home.run("factory", "register", "fac-3", "--incarnation", "agent-1")[0] == 0
    assert _explained(home, job, "--factory", "fac-3")[0] == ["restarted"]
    assert _explained(home, job, "--factory", "fac-3", "--incarnation", "agent-1")[0] == []
    for command in (["factory", "register", "fac-3"], ["claim", job, "--factory", "fac-3"]):
        status, _, err = home.run(*command)
        assert status in (1, 5)
        assert "broker factory register FACTORY --incarnation NAME" in err
    assert home.run("factory", "register", "fac-3", "--incarnation", "shell-2")[0] == 0
    assert home.run("claim", job, "--factory", "fac-3", "--incarnation", "shell-2")[0] == 0
