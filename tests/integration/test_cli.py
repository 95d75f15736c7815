"""The command line on a real fleet that `broker up --detach` started, in a folder with a space in its name."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.commands import BROKER, Commands, Run, fresh
from tests.processes import alive, end, start, wait_for
from workers.state_dir import StateDir

pytestmark = pytest.mark.redis


class Home:
    """A folder that commands are run in, each in a fresh interpreter unless told otherwise."""

    def __init__(self, path: Path, env: Mapping[str, str] | None = None, *, run: Run = fresh) -> None:
        self.path = path
        self._run = run
        self.env = {"BROKER_FACTORY": "f1", **(env or {})}

    def run(self, *arguments: str, input: str = "", env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        environment = {**os.environ, **self.env, **(env or {})}
        done = self._run(arguments, cwd=self.path, env=environment, input=input)
        assert "Traceback" not in done.err, done.err
        return done.status, done.out, done.err

    def json(self, *arguments: str, input: str = "", env: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """Exit status and the one object that the command printed."""
        command, *rest = arguments
        status, out, _ = self.run(command, "--json", *rest, input=input, env=env)
        return status, json.loads(out)

    def lines(self, *arguments: str) -> list[Any]:
        """What a listing printed."""
        status, out, _ = self.run(*arguments, "--json")
        assert status == 0
        return [json.loads(line) for line in out.splitlines()]

    def submit(self, **fields: Any) -> str:
        """Submit a job; its id."""
        status, reply = self.json("submit", "-", input=json.dumps(fields))
        assert (status, reply["answer"]) == (0, "ok")
        return str(reply["job_id"])

    def claim(self, queue: str, *more: str, factory: str = "f1") -> Any:
        """A grant."""
        status, grant = self.json("claim", "--queue", queue, "--factory", factory, *more)
        assert (status, grant["answer"]) == (0, "granted")
        return grant


def fence(grant: Any) -> list[str]:
    """What a holder says."""
    return [grant["job_id"], "--epoch", str(grant["epoch"]), "--token", grant["token"]]


@pytest.fixture(scope="module")
def home(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A folder in which a broker runs."""
    home = Home(tmp_path_factory.mktemp("a home"), run=commands.run)
    status, shown = home.json("up", "--detach")
    assert (status, shown["up"], shown["workers"]) == (0, True, 2)
    yield home
    pids = [shown["supervisor_pid"], *(each["pid"] for each in home.json("status")[1]["processes"])]
    status, shown = home.json("down")
    assert (status, shown["stopped"]) == (0, True)
    assert [pid for pid in pids if alive(pid)] == []


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
    code = (
        "import sys; from broker import cli; from workers.cli import build_app; "
        "status = cli.run(build_app(), ['claim', '--queue', 'nothing-here']); "
        "print(status, [name for name in ('azure', 'rq', 'yaml', 'sqlite3', 'workers.runtime') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=home.path,
        env={**os.environ, **home.env},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout == "3 []\n"


def test_status_shows_what_runs_and_that_what_died_was_started_again(home: Home) -> None:
    status, shown = home.json("status")
    assert (status, shown["up"], shown["problem"]) == (0, True, None)
    assert [each["name"] for each in shown["processes"]] == ["valkey", "worker-1", "worker-2", "sweep"]
    victim = next(each for each in shown["processes"] if each["name"] == "worker-2")
    os.kill(victim["pid"], signal.SIGKILL)

    def restarted() -> bool:
        now = next(each for each in home.json("status")[1]["processes"] if each["name"] == "worker-2")
        return bool(now["restarts"] >= 1 and now["alive"] and now["pid"] != victim["pid"])

    wait_for(restarted, "the worker was started again")
    assert set(shown["queues"]) == {"leases", "claims", "jobs"}


def test_one_folder_has_one_fleet(home: Home) -> None:
    status, _, err = home.run("up", "--detach")
    assert status == 1
    assert "a fleet already runs" in err
    assert "broker down" in err
    status, _, err = home.run("up")
    assert (status, "a fleet already runs" in err) == (1, True)


def test_no_url_stands_in_an_argument_list(home: Home) -> None:
    pids = [each["pid"] for each in home.json("status")[1]["processes"] if each["name"] != "valkey"]
    for pid in pids:
        arguments = Path(f"/proc/{pid}/cmdline").read_text()
        assert "unix:" not in arguments
        assert "sqlite:" not in arguments


def test_a_healthy_machine_passes_the_doctor(home: Home) -> None:
    status, out, _ = home.run("doctor", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert status == 0, out
    assert [each["check"] for each in found] == ["python", "state folder", "server", "redis", "datastore", "clock"]


def test_the_doctor_names_what_is_missing(commands: Commands, tmp_path: Path, redis_url: str) -> None:
    home = Home(tmp_path, {"BROKER_REDIS_URL": f"unix://{tmp_path}/nobody.sock"}, run=commands.run)
    status, out, _ = home.run("doctor")
    assert status == 1
    assert "problem  redis" in out
    (tmp_path / "shared").mkdir(mode=0o755)
    (tmp_path / "shared" / "theirs").write_text("")
    status, out, _ = home.run("doctor", "--state-dir", "shared", "--redis", redis_url)
    assert status == 1
    assert "problem  state folder" in out
    assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o755


def test_a_broker_without_workers_is_not_up_and_times_out(commands: Commands, tmp_path: Path, redis_url: str) -> None:
    home = Home(tmp_path, {"BROKER_REDIS_URL": redis_url}, run=commands.run)
    status, shown = home.json("status")
    assert (status, shown["up"], shown["problem"]) == (1, False, "no worker serves")
    status, shown = home.json("submit", "-", "--timeout", "0.5", input='{"payload": 1}')
    assert status == 4
    assert shown["answer"] == "outcome_unknown"
    status, shown = home.json("claim", "--timeout", "0.5")
    assert status == 4
    assert shown["request_id"] in shown["next"]
    status, shown = home.json("jobs", "--timeout", "0.5")
    assert status == 4
    assert "broker status" in shown["next"]


def test_a_fleet_in_the_foreground_serves_from_memory_and_drains_on_a_signal(
    commands: Commands, tmp_path: Path
) -> None:
    home = Home(tmp_path, run=commands.run)
    up = start([*BROKER, "up", "--workers", "3", "--datastore", "memory://", "--state-dir", str(tmp_path / "state")])
    try:
        state = StateDir(tmp_path / "state")
        endpoint = wait_for(state.running, "the fleet serves", deadline_ms=30_000)
        status, shown = home.json("status", "--state-dir", "state")
        assert (status, [each["name"] for each in shown["processes"]]) == (0, ["valkey", "worker-1"])
        assert home.json("submit", "-", "--state-dir", "state", input='{"payload": 1}')[0] == 0
        os.kill(endpoint.supervisor_pid, signal.SIGTERM)
        out, _ = up.communicate(timeout=30)
        assert "memory:// is one process's own" in out
        assert "the broker serves from" in out
        assert up.returncode == 0
        assert not any(alive(each["pid"]) for each in shown["processes"])
    finally:
        end(up)


def test_a_second_worker_may_not_serve_from_memory(commands: Commands, tmp_path: Path, redis_url: str) -> None:
    env = {"BROKER_REDIS_URL": redis_url, "BROKER_DATASTORE_URL": "memory://"}
    first = start([*BROKER, "worker", "--state-dir", str(tmp_path / "one")], env=env)
    try:
        home = Home(tmp_path, env, run=commands.run)
        wait_for(lambda: home.json("status")[0] == 0, "the first serves", deadline_ms=20_000)
        status, _, err = home.run("worker")
        assert status == 1
        assert "already serves a memory:// store" in err
        status, _, err = home.run("sweep", "--once")
        assert (status, "memory://" in err) == (1, True)
    finally:
        end(first)


def test_what_cannot_serve_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for options in (["--redis", f"unix://{tmp_path}/nobody.sock"], ["--datastore", "mysql://x"]):
        status, out, err = home.run("up", "--detach", *options)
        assert (status, out) == (1, "")
        assert "\nnext: " in err
    assert home.json("down") == (0, {"up": False, "stopped": False, "state_dir": str(tmp_path / ".broker")})


def test_data_outlive_the_fleet_and_urls_given_relative_stay_where_they_were(tmp_path: Path, redis_url: str) -> None:
    home = Home(tmp_path)
    up = ["up", "--detach", "--workers", "1", "--redis", redis_url, "--datastore", "sqlite:///jobs.db"]
    try:
        assert home.run(*up)[0] == 0
        job = home.submit(payload=1)
        assert home.run("down")[0] == 0
        assert (tmp_path / "jobs.db").exists()
        assert home.run("jobs")[0] == 1
        assert home.run(*up)[0] == 0
        (tmp_path / "elsewhere").mkdir()
        away = Home(tmp_path / "elsewhere", {"BROKER_STATE_DIR": str(tmp_path / ".broker")})
        assert away.json("job", job)[1]["job"]["state"] == "ready"
        assert away.run("sweep", "--once")[0] == 0
        assert not (tmp_path / "elsewhere" / "jobs.db").exists()
    finally:
        home.run("down")
