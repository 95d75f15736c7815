"""A fleet on the command line: what it shows, what it refuses to start with, and what outlives it."""

import json
import os
import signal
import tempfile
from pathlib import Path

import pytest

from broker.client import Client
from broker.queues import intake_key
from datastore import connect
from tests.commands import BROKER, Commands
from tests.fleet import Fleet
from tests.home import Home
from tests.processes import alive, end, start, wait_for
from workers.children import read_statuses
from workers.state_dir import StateDir

pytestmark = pytest.mark.redis

ROOT = Path(__file__).parents[2]


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


def test_status_of_another_redis_shows_nothing_of_the_fleet_here(home: Home, redis_url: str) -> None:
    asked = [home.json("status", "--redis", redis_url), home.json("status", env={"BROKER_REDIS_URL": redis_url})]
    for status, shown in asked:
        assert (status, shown["problem"], shown["redis_url"]) == (1, "no worker serves", redis_url)
        assert shown["processes"] == shown["workers"] == []
        assert [shown[name] for name in ("state_dir", "datastore_url", "supervisor_pid")] == [None] * 3
    own = home.json("status")[1]
    again = home.json("status", "--redis", own["redis_url"])[1]
    assert [each["name"] for each in again["processes"]] == [each["name"] for each in own["processes"]]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_a_fleet_whose_logs_can_not_be_written_serves_on_and_starts_again_what_ends(
    commands: Commands, tmp_path: Path
) -> None:
    state = StateDir.at(tmp_path / ".broker")
    for name in ("worker-1", "sweep"):
        (state.log_dir / f"{name}.log").symlink_to("/dev/full")
    up = " ".join(f"'{word}'" for word in (*BROKER, "up", "--workers", "1", "--json"))
    supervisor = start(["sh", "-c", f"cd '{tmp_path}' && exec {up} 2> /dev/full"], env={"PYTHONPATH": str(ROOT)})
    home = Home(tmp_path, run=commands.run)
    try:
        wait_for(lambda: state.running() or supervisor.poll() is not None, "it serves", deadline_ms=30_000)
        assert supervisor.poll() is None
        worker, sweep = (each["pid"] for each in home.json("status")[1]["processes"] if each["name"] != "valkey")
        os.kill(worker, signal.SIGKILL)
        job_id = home.submit()
        assert home.claim("default")["job_id"] == job_id
        assert [child.restarts for child in read_statuses(state)] == [0, 1, 0], "the server, the worker, the sweep"
        assert alive(sweep)
    finally:
        home.run("down")
        end(supervisor)


def test_a_worker_whose_log_nobody_reads_any_more_serves_on(fleet: Fleet, tmp_path: Path) -> None:
    log = tmp_path / "log"
    os.mkfifo(log)
    with open(log, "r+b", buffering=0) as pipe:  # for both, so that neither waits for the other to open it
        os.set_blocking(pipe.fileno(), False)
        while pipe.write(b"x") is not None:
            pass
        worker = " ".join(f"'{word}'" for word in (*BROKER, "worker"))
        fleet.start(["sh", "-c", f"exec {worker} 2> '{log}'"], {"PYTHONPATH": str(ROOT), "BROKER_LOG_LEVEL": "debug"})
        with Client.connect(fleet.redis_url, factory_id="f") as client:
            client.submit(job_id="j")
            fleet.redis.rpush(intake_key("claims"), "no request")
            with client.lease("j") as lease:
                lease.complete()
        while pipe.read(4_096):
            pass
        fleet.redis.rpush(intake_key("claims"), "no request either")
        wait_for(lambda: b"lines_left_out" in (pipe.read(65_536) or b""), "who reads again is told of the gap")


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
    assert [each["check"] for each in found] == [
        *("python", "variables", "state folder", "server", "redis", "datastore", "clock", "workers")
    ]


def test_the_doctor_tells_a_misspelt_variable_without_its_value(commands: Commands, tmp_path: Path) -> None:
    environ = {"BROKER_TTLMS": "5", "BROKER_SIGNIN_SECRET": "hush", "BROKER_QUEUE": "q", "BROKER_REPLICAS": "3"}
    misspelt = Home(tmp_path, environ, run=commands.run)
    status, out, _ = misspelt.run("doctor")
    assert (status, "hush" in out) == (1, False)
    assert "BROKER_SIGNIN_SECRET and BROKER_TTLMS are read by nobody; " in out, "all of them at once"
    assert "write BROKER_SIGNING_SECRET and BROKER_TTL_MS, or unset them" in out
    status, out, _ = Home(tmp_path, {"BROKER_TTLMS": "5"}, run=commands.run).run("doctor")
    assert (status, "BROKER_TTLMS is read by nobody; write BROKER_TTL_MS, or unset it" in out) == (1, True)
    others = Home(tmp_path, {"BROKER_QUEUE": "q", "BROKER_REPLICAS": "3", "BROKER_TTL_MS": "5000"}, run=commands.run)
    status, out, _ = others.run("doctor")
    assert (status, "variables" in out, "BROKER_TTL_MS" in out) == (0, True, True)


def test_a_process_that_starts_with_a_misspelt_variable_logs_it_without_its_value(home: Home) -> None:
    status, out, told = home.run("sweep", "--once", env={"BROKER_SIGNIN": "hush"})
    [line] = [line for line in (out + told).splitlines() if "variable_misspelt" in line]
    assert (status, "BROKER_SIGNIN" in line, "BROKER_SIGNING" in line) == (0, True, True)
    assert "hush" not in out + told


@pytest.mark.parametrize(
    "command", [("jobs",), ("submit", "-"), ("exec", "--factory", "f", "--", "true"), ("up",)], ids=str
)
def test_a_command_says_which_variable_is_misspelt_without_its_value(home: Home, command: tuple[str, ...]) -> None:
    _, out, told = home.run(*command, env={"BROKER_KEY_FIL": "hush"}, input="---\n---\nDo it\n")
    assert "BROKER_KEY_FIL is read by nobody; write BROKER_KEY_FILE, or unset it" in told.splitlines()
    assert "hush" not in out + told


def test_the_doctor_tells_of_a_database_that_anybody_may_read(home: Home) -> None:
    with tempfile.TemporaryDirectory() as folder:  # not in pytest's own, which nobody else may enter
        file = Path(folder, "jobs.db")
        connect(f"sqlite:///{file}").close()
        assert home.run("doctor", "--datastore", f"sqlite:///{file}")[0] == 0
        file.chmod(0o644)
        assert home.run("doctor", "--datastore", f"sqlite:///{file}")[0] == 0, "its folder is closed"
        Path(folder).chmod(0o755)
        status, out, _ = home.run("doctor", "--datastore", f"sqlite:///{file}")
        assert (status, "anybody here may read" in out, f"`chmod o= {file}*`" in out) == (1, True, True)


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


MISTYPED = "sqlite:///typo/jobs.db"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("doctor", "--datastore", MISTYPED), "there is no folder"),
        (("doctor", "--datastore", "sqlite:///typo.db"), "there is no file"),
        (("doctor", "--state-dir", "typo"), None),
        (("key", "list", "--datastore", MISTYPED), "there is no folder"),
        (("key", "list", "--datastore", "sqlite:///typo.db"), "there is no file"),
        (("key", "list", "--state-dir", "typo"), "there is no folder"),
        (("key", "revoke", "K", "--datastore", "sqlite:///typo.db"), "there is no file"),
        (("key", "new", "--factory", "f", "--out", "key", "--datastore", MISTYPED), "there is no folder"),
        (("check-store", "sqlite:///typo.db"), "there is no file"),
        (("check-store", "--create", MISTYPED), "there is no folder"),
        (("refused", "--state-dir", "typo"), "no broker runs"),
        (("jobs", "--state-dir", "typo"), "no broker runs"),
        (("status", "--state-dir", "typo"), "no broker runs"),
        (("down", "--state-dir", "typo"), None),
        (("worker", "--burst", "--datastore", MISTYPED), "there is no folder"),
        (("sweep", "--once", "--datastore", MISTYPED), "there is no folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistyped_path_is_told_and_nothing_is_made(
    commands: Commands, tmp_path: Path, redis_url: str, command: tuple[str, ...], says: str | None
) -> None:
    serving = {"BROKER_REDIS_URL": redis_url} if command[0] in ("worker", "sweep") else {}
    status, out, err = Home(tmp_path, serving, run=commands.run).run(*command)
    assert status == (0 if says is None else 1), out + err
    assert says is None or says in out + err
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_new_datastore_is_made_by_whoever_chose_it(commands: Commands, tmp_path: Path) -> None:
    home = Home(tmp_path, run=commands.run)
    status, _, err = home.run("up", "--detach", "--datastore", MISTYPED)
    assert (status, "make the folder first" in err, (tmp_path / "typo").exists()) == (1, True, False)
    (tmp_path / "typo").mkdir()
    assert home.run("key", "new", "--factory", "f", "--out", "key", "--datastore", MISTYPED)[0] == 0
    assert home.run("doctor", "--datastore", MISTYPED)[0] == 0
    assert home.run("check-store", "--create", "sqlite:///new.db")[0] == 0


def test_a_broker_without_workers_is_not_up_and_times_out(commands: Commands, tmp_path: Path, redis_url: str) -> None:
    home = Home(tmp_path, {"BROKER_REDIS_URL": redis_url}, run=commands.run)
    status, shown = home.json("status")
    assert (status, shown["up"], shown["problem"]) == (1, False, "no worker serves")
    status, shown = home.json("submit", "-", "--timeout", "0.5", input='{"payload": 1}')
    assert status == 4
    assert shown["answer"] == "outcome_unknown"
    assert shown["job_id"] == f"j-{shown['request_id']}"
    status, _, told = home.run("submit", "-", "--timeout", "0.5", "--id", "mine", input='{"payload": 1}')
    assert (status, "job mine" in told, "no answer within 500 ms" in told, "broker status" in told) == (4, *[True] * 3)
    assert "none serves" in home.run("doctor")[1]
    status, shown = home.json("claim", "--timeout", "0.5")
    assert status == 4
    assert shown["request_id"] in shown["next"]
    status, shown = home.json("jobs", "--timeout", "0.5")
    assert status == 4
    assert "broker status" in shown["next"]


def test_a_fleet_whose_workers_hang_is_to_be_started_again(commands: Commands, tmp_path: Path) -> None:
    home = Home(tmp_path, {"BROKER_TAKEOVER_MS": "2000"}, run=commands.run)
    assert home.run("up", "--detach", "--workers", "1", "--state-dir", "a fleet")[0] == 0
    shown = home.json("status", "--state-dir", "a fleet")[1]
    [worker] = [each["pid"] for each in shown["processes"] if each["name"].startswith("worker")]
    os.kill(worker, signal.SIGSTOP)
    try:
        wait_for(lambda: home.json("status", "--state-dir", "a fleet")[0] == 1, "it does not serve")
        shown = home.json("status", "--state-dir", "a fleet")[1]
    finally:
        os.kill(worker, signal.SIGCONT)
        assert home.run("down", "--state-dir", "a fleet")[0] == 0
    assert shown["problem"] == "no worker serves"
    assert "see the logs in a fleet/logs; then \"broker down --state-dir 'a fleet'\" and" in shown["next"]
    gone = home.json("status", "--state-dir", "a fleet")[1]
    assert "run \"broker up --state-dir 'a fleet'\" or set" in gone["next"]


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


def test_a_fleet_elsewhere_says_how_to_reach_it(commands: Commands, tmp_path: Path) -> None:
    home = Home(tmp_path, run=commands.run)
    elsewhere = f"--state-dir '{tmp_path}/a fleet'"
    try:
        status, out, _ = home.run("up", "--detach", "--workers", "1", "--state-dir", f"{tmp_path}/a fleet")
        assert (status, out.splitlines()[-1]) == (
            0, f"`broker submit FILE {elsewhere}` brings work; `broker down {elsewhere}` stops it",
        )  # fmt: skip
    finally:
        assert home.run("down", "--state-dir", f"{tmp_path}/a fleet")[0] == 0


def test_what_cannot_serve_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for options, exit in ((["--redis", f"unix://{tmp_path}/nobody.sock"], 1), (["--datastore", "mysql://x"], 2)):
        status, out, err = home.run("up", "--detach", *options)
        assert (status, out) == (exit, "")
        assert "\nnext: " in err
    assert home.json("down") == (0, {"up": False, "stopped": False, "state_dir": str(tmp_path / ".broker")})


@pytest.mark.parametrize("command", ["up", "worker", "sweep", "doctor"])
@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("--redis", "http://x", "use redis://, rediss:// or unix://"),
        ("--redis", "redis://localhost:1/?foo=1", "there is no option foo"),
        ("--datastore", "mysql://x", "use memory://, sqlite:///path or cosmos://"),
    ],
)
def test_a_setting_that_is_wrong_in_itself_is_status_2(
    commands: Commands, tmp_path: Path, redis_url: str, command: str, setting: str, value: str, said: str
) -> None:
    home = Home(tmp_path, {"BROKER_REDIS_URL": redis_url}, run=commands.run)
    status, out, err = home.run(command, setting, value)
    assert said in out + err
    assert status == (1 if command == "doctor" else 2)  # the doctor goes on to what else may be missing


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


def test_a_fleet_runs_none_of_the_modules_of_the_folder_that_it_is_started_in(
    commands: Commands, tmp_path: Path
) -> None:
    # A project of one's own may well have a package called `workers`, and a shared folder somebody else's `redis.py`.
    ran = tmp_path / "ran"
    (tmp_path / "workers").mkdir()
    for module in ("workers/__init__.py", "redis.py"):
        (tmp_path / module).write_text(f"open({str(ran)!r}, 'w').close()\n")
    home = Home(tmp_path, run=commands.run)
    status, shown = home.json("up", "--detach")
    assert (status, shown.get("up")) == (0, True), shown
    home.submit(id="job", queue="q")
    assert home.json("down")[0] == 0
    assert not ran.exists()
