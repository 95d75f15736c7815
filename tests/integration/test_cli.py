"""The command line on a real fleet that `broker up --detach` started, in a folder with a space in its name."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.commands import BROKER
from tests.home import Home, fence
from tests.processes import alive, end, start, wait_for

pytestmark = pytest.mark.redis


def test_a_job_goes_from_a_file_to_completed(home: Home) -> None:
    (home.path / "job.md").write_text("---\nid: way\nqueue: way\nrequires: os=linux\nmodel: big\n---\nDo it.\n")
    status, reply = home.json("submit", "job.md")
    assert (status, reply["answer"], reply["job_id"], reply["state"]) == (0, "ok", "way", "ready")
    grant = home.claim("way", "--offers", "os=linux,gpu", "--ttl", "30s")
    assert (grant["job_id"], grant["epoch"], grant["ttl_ms"]) == ("way", 1, 30_000)
    assert grant["payload"] == {"params": {"model": "big"}, "body": "Do it.\n"}
    status, renewed = home.json("renew", *fence(grant))
    assert (status, renewed["answer"], renewed["directives"]) == (0, "renewed", [])
    status, noted = home.json("progress", *fence(grant), "--progress", '{"done": 0.5}')
    assert (status, noted["answer"]) == (0, "ok")
    assert home.lines("runs", "way")[0]["progress"] == {"done": 0.5}
    status, done = home.json("complete", *fence(grant), "--result", '{"lines": 3}')
    assert (status, done["answer"], done["state"]) == (0, "ok", "succeeded")
    [run] = home.lines("runs", "way")
    assert (run["epoch"], run["factory_id"], run["outcome"], run["result"]) == (1, "f1", "succeeded", {"lines": 3})
    status, shown = home.json("job", "way")
    assert (status, shown["job"]["state"], shown["spec"]["payload"]["body"]) == (0, "succeeded", "Do it.\n")


def test_bench_puts_jobs_of_its_own_through_the_broker(home: Home) -> None:
    status, found = home.json("bench", "--jobs", "40", "--outstanding", "8")
    steps = [(step["what"], step["outstanding"]) for step in found["steps"]]
    assert (status, steps[0]) == (0, ("submit", 40))
    assert steps[1:] == [(what, count) for count in (1, 8) for what in ("claim", "renew", "complete")]
    assert all(0 < step["p50_ms"] <= step["p99_ms"] and step["per_s"] > 0 for step in found["steps"])
    assert len(home.lines("jobs", "--queue", found["queue"], "--state", "succeeded")) == 40


def test_requires_is_understood_on_a_claim_too(home: Home) -> None:
    home.submit(queue="pair", requires=["gpu"])
    assert home.claim("pair", "--requires", "gpu")["epoch"] == 1


def test_exit_statuses_tell_a_script_what_became_of_it(home: Home) -> None:
    job = home.submit(queue="exits")
    grant = home.claim("exits")
    token = "0" * 32
    for arguments, status, answer in (
        (["claim", "--queue", "nothing-here"], 3, "none_available"),
        (["claim", "no-such-job"], 1, "not_found"),
        (["claim", job, "--queue", "exits", "--factory", "f2"], 5, "conflict"),
        (["complete", job, "--epoch", "1", "--token", token], 5, "lease_lost"),
        (["release", job, "--epoch", "9", "--token", grant["token"]], 1, "invalid"),
        (["complete", *fence(grant)], 0, "ok"),
        (["complete", *fence(grant)], 5, "already_terminal"),
        (["redrive", job], 5, "conflict"),
        (["cancel", job], 5, "already_terminal"),
    ):
        found, reply = home.json(*arguments)
        assert (found, reply["answer"]) == (status, answer), arguments
        assert {"answer", "reason", "retry", "request_id"} <= set(reply)


def test_a_refusal_says_on_standard_error_what_to_do_next(home: Home) -> None:
    job = home.submit(queue="refusal")
    home.claim("refusal")
    status, out, err = home.run("claim", job, "--factory", "f2", "--queue", "refusal")
    assert (status, out) == (5, "")
    assert "held by f1" in err
    assert "\nnext: " in err


def test_a_repeated_request_takes_effect_once_also_from_another_call(home: Home) -> None:
    home.submit(queue="again")
    home.submit(queue="again")
    first = home.claim("again", "--request-id", "again-1")
    status, second = home.json("claim", "--queue", "again", "--request-id", "again-1")
    assert status == 0
    assert [second[name] for name in ("job_id", "epoch", "token")] == [
        first[name] for name in ("job_id", "epoch", "token")
    ]
    assert home.json("complete", *fence(first), "--request-id", "again-2")[1]["answer"] == "ok"
    assert home.json("complete", *fence(first), "--request-id", "again-2")[1]["answer"] == "replayed"


def test_requirements_and_preferences_of_a_job_file_decide_who_gets_it(home: Home) -> None:
    needs = {"queue": "fit", "requires": {"mem_gb": ">=16", "gpu": True}}
    for id, more in (("plain", {}), ("ssd", {"prefers": {"ssd": 3}}), ("eu", {"prefers": {"zone=eu": 10}})):
        home.submit(id=f"fit-{id}", **needs, **more)
    assert home.run("claim", "--queue", "fit", "--offers", "mem_gb=8,gpu,zone=eu")[0] == 3
    assert home.run("claim", "--queue", "fit", "--offers", "mem_gb=64")[0] == 3
    offers = ("--offers", "mem_gb=16,gpu=a100,zone=eu")
    assert [home.claim("fit", *offers)["job_id"] for _ in range(3)] == ["fit-eu", "fit-plain", "fit-ssd"]


def test_tenants_take_turns_and_several_jobs_are_claimed_and_renewed_at_once(home: Home) -> None:
    for number in range(4):
        home.submit(id=f"big-{number}", queue="turns", fairness_key="big")
    home.submit(id="small-0", queue="turns", fairness_key="small")
    claimed = home.claim("turns", "--count", "3")
    assert sorted(grant["job_id"] for grant in claimed["grants"]) == ["big-0", "big-1", "small-0"]
    status, renewed = home.json("renew-many", "-", input=json.dumps(claimed))
    assert (status, [each["answer"] for each in renewed["results"]]) == (0, ["renewed"] * 3)
    home.run("revoke", "big-1")
    status, out, err = home.run("renew-many", "-", input=json.dumps(claimed["grants"]))
    assert status == 5, "as the worst of the answers"
    assert "renewed job small-0" in out
    assert "lease_lost" in err
    status, out, _ = home.run("claim", "--queue", "turns", "--count", "9")
    assert (status, out.count("granted job")) == (0, 3)
    assert home.run("claim", "--queue", "turns", "--count", "9")[0] == 3
    assert home.run("claim", "big-1", "--count", "9")[0] == 2
    assert home.run("claim", "--count", "65")[0] == 2


def test_a_claim_waits_for_work(home: Home) -> None:
    waiting = start(
        [*BROKER, "claim", "--queue", "later", "--wait", "20", "--json", "--state-dir", str(home.path / ".broker")],
        env=home.env,
    )
    try:
        wait_for(lambda: home.json("status")[1]["parked"] == 1, "the claim is parked")
        job = home.submit(queue="later")
        out, _ = waiting.communicate(timeout=20)
        assert (waiting.returncode, json.loads(out)["job_id"]) == (0, job)
    finally:
        end(waiting)


def test_ctrl_c_ends_a_waiting_claim_quietly(home: Home) -> None:
    waiting = start(
        [*BROKER, "claim", "--queue", "never", "--wait", "30", "--state-dir", str(home.path / ".broker")], env=home.env
    )
    try:
        wait_for(lambda: home.json("status")[1]["parked"] == 1, "the claim is parked")
        waiting.send_signal(signal.SIGINT)
        out, _ = waiting.communicate(timeout=10)
        assert (waiting.returncode, out) == (130, "")
    finally:
        end(waiting)


def test_a_failed_try_is_scheduled_and_a_final_one_is_not(home: Home) -> None:
    home.submit(queue="fails")
    home.submit(queue="fails")
    status, failed = home.json("fail", *fence(home.claim("fails")), "--error", "no disk")
    assert (status, failed["state"]) == (0, "scheduled")
    assert failed["not_before_ms"] > 0
    status, failed = home.json("fail", *fence(home.claim("fails")), "--final")
    assert (status, failed["state"]) == (0, "failed")
    assert home.json("redrive", failed["job_id"])[1]["state"] == "ready"


def test_an_operator_cancels_and_revokes(home: Home) -> None:
    job = home.submit(queue="operator")
    grant = home.claim("operator")
    assert home.json("cancel", job, "--reason", "wrong branch")[0] == 0
    assert home.json("renew", *fence(grant))[1]["directives"] == ["cancel"]
    assert home.json("release", *fence(grant))[1]["state"] == "cancelled"
    job = home.submit(queue="operator")
    grant = home.claim("operator")
    assert home.json("revoke", job)[0] == 0
    status, lost = home.json("renew", *fence(grant))
    assert (status, lost["answer"]) == (5, "lease_lost")


def test_the_token_stands_in_the_grant_and_nowhere_else(home: Home) -> None:
    job = home.submit(queue="secret")
    token = home.claim("secret")["token"]
    for command in (["jobs", "--limit", "0"], ["job", job], ["runs", job], ["leases"], ["status"]):
        for options in ([], ["--json"]):
            status, out, err = home.run(*command, *options)
            assert status == 0
            assert token not in out + err
    [lease] = [each for each in home.lines("leases") if each["job_id"] == job]
    assert (lease["factory_id"], lease["epoch"]) == ("f1", 1)
    assert 0 < lease["remaining_ms"] <= 60_000
    logs = "".join(path.read_text() for path in (home.path / ".broker" / "logs").iterdir())
    assert token not in logs


def test_the_token_may_come_from_standard_input_or_the_environment(home: Home) -> None:
    home.submit(queue="stdin")
    grant = home.claim("stdin")
    of = [grant["job_id"], "--epoch", str(grant["epoch"])]
    assert home.json("renew", *of, "--token", "-", input=grant["token"] + "\n")[0] == 0
    assert home.json("complete", *of, env={"BROKER_LEASE_TOKEN": grant["token"]})[0] == 0


def test_a_forged_argument_never_shows_the_token(home: Home) -> None:
    status, out, err = home.run("complete", "j", "--epoch", "1", "--token", "not a token")
    assert status == 2
    assert "not a token" not in out + err


def test_a_list_pages_over_all_jobs_and_stops_with_its_reader(home: Home) -> None:
    (home.path / "many.jsonl").write_text("".join(f'{{"queue": "many", "id": "many-{n}"}}\n' for n in range(450)))
    status, out, _ = home.run("submit", "many.jsonl")
    assert status == 0
    assert len(out.splitlines()) == 450
    assert len({job["id"] for job in home.lines("jobs", "--queue", "many", "--limit", "0")}) == 450
    assert len(home.lines("jobs", "--queue", "many", "--state", "ready", "--limit", "7")) == 7
    assert home.lines("jobs", "--queue", "many", "--state", "leased") == []
    command = f"exec {shlex.join(BROKER)} jobs --limit 0 --json 2>errors | head -n 1"
    piped = subprocess.run(["bash", "-c", command], cwd=home.path, capture_output=True, text=True, timeout=30)
    assert len(piped.stdout.splitlines()) == 1
    assert (home.path / "errors").read_text() == ""


def test_of_several_files_the_good_ones_are_submitted(home: Home) -> None:
    (home.path / "good.md").write_text("---\nid: good-one\nqueue: files\n---\nx")
    (home.path / "half.jsonl").write_text('{"id": "half-1", "queue": "files"}\n{"id": "half-2", "priority": "x"}\n')
    status, out, err = home.run("submit", "half.jsonl", "good.md")
    assert status == 1
    assert out == "good-one  ready\n"
    assert "half.jsonl:2: priority" in err
    assert [job["id"] for job in home.lines("jobs", "--queue", "files")] == ["good-one"]
    status, reply = home.json("submit", "good.md")
    assert (status, reply["answer"], reply["reason"]) == (5, "conflict", "exists")


def test_submissions_are_repeated_under_their_request_ids(home: Home) -> None:
    (home.path / "two.jsonl").write_text('{"queue": "twice"}\n{"queue": "twice"}\n')
    first = home.lines("submit", "two.jsonl", "--request-id", "twice")
    second = home.lines("submit", "two.jsonl", "--request-id", "twice")
    assert [each["answer"] for each in first + second] == ["ok", "ok", "replayed", "replayed"]
    assert [each["job_id"] for each in first] == [each["job_id"] for each in second]


def test_exec_runs_a_command_with_the_payload_and_ends_the_job_by_its_status(home: Home) -> None:
    job = home.submit(queue="exec", payload={"n": 1})
    script = 'cat; printf " %s %s" "$BROKER_JOB_ID" "$BROKER_LEASE_EPOCH"'
    status, out, err = home.run("exec", "--queue", "exec", "--", "sh", "-c", script)
    assert (status, out) == (0, f'{{"n": 1}} {job} 1')
    assert "completed" in err
    job = home.submit(queue="exec")
    status, told = home.json("exec", "--queue", "exec", "--", "sh", "-c", "echo noise; exit 65")
    assert (status, told["ending"], told["command_exit"]) == (1, "failed", 65)
    assert home.json("job", job)[1]["job"]["state"] == "failed"
    assert home.json("exec", "--queue", "exec", "--", "true")[0] == 3
    status, _, err = home.run("exec", "--queue", "exec", "--", "no-such-command-here")
    assert status == 1
    assert "nothing was claimed" in err


def test_a_command_does_not_outlive_exec(home: Home) -> None:
    home.submit(queue="leash")
    script = "echo $$ > pid; exec sleep 60"
    argv = [
        *BROKER,
        "exec",
        "--queue",
        "leash",
        "--state-dir",
        str(home.path / ".broker"),
        "--",
        "sh",
        "-c",
        f"cd '{home.path}'; {script}",
    ]
    runner = subprocess.Popen(argv, env={**os.environ, **home.env})
    try:
        wait_for(lambda: (home.path / "pid").exists() and (home.path / "pid").read_text().strip(), "the command runs")
        runner.kill()
        wait_for(lambda: not alive(int((home.path / "pid").read_text())), "the command ended with its runner")
    finally:
        runner.kill()
        runner.wait()


def test_a_claim_loads_nothing_that_it_does_not_need(home: Home) -> None:
    unneeded = ("azure", "rq", "yaml", "sqlite3", "rich", "workers.runtime")
    assert loaded_by(home, ["claim", "--queue", "nothing-here"], unneeded) == "3 []\n"


def test_a_worker_loads_nothing_that_claims_would_wait_for(home: Home) -> None:
    other_parts = ("broker.cli.app", "broker.client", "broker.jobfile", "workers.daemon", "workers.sweep")
    unneeded = ("azure", "rich", "yaml", *other_parts)
    assert loaded_by(home, ["worker", "--burst"], unneeded) == "0 []\n"


def loaded_by(home: Home, arguments: list[str], modules: Sequence[str]) -> str:
    """The exit status of a command, and which of these modules it has loaded."""
    code = (
        "import sys\n"
        f"sys.argv = ['broker', *{arguments!r}]\n"
        "from workers.cli import main\n"
        "try: main()\n"
        f"except SystemExit as end: print(end.code, [name for name in {modules!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=home.path,
        env={**os.environ, **home.env},
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.stdout
