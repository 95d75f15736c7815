"""`broker agent` on a fleet that `broker up` started: what runs, what ends it, and what it leaves behind."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import redis

from broker.client import Client
from tests.commands import BROKER, Commands
from tests.conftest import StartValkey
from tests.fleet import Fleet
from tests.home import Home
from tests.processes import end, start, wait_for

pytestmark = pytest.mark.redis

SOON_MS = 30_000
LINES_MAX = 100
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def home(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("fleet"), run=commands.run)
    assert home.json("up", "--detach", "--workers", "1")[0] == 0
    yield home
    assert home.json("down")[0] == 0


@pytest.fixture
def agent(home: Home) -> Iterator[Start]:
    """Starts `broker agent` with these arguments."""
    processes: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> "subprocess.Popen[str]":
        processes.append(start([*BROKER, "agent", "--state-dir", str(home.path / ".broker"), *arguments]))
        return processes[-1]

    yield run
    for process in processes:
        process.terminate()  # in order, so that no claim of it waits on
        process.send_signal(signal.SIGINT)
    for process in processes:
        wait_for(lambda process=process: process.poll() is not None, "it has ended", deadline_ms=SOON_MS)  # type: ignore[misc]  # bound now
        end(process)


def state(home: Home, job: str) -> str:
    return str(home.json("job", job)[1]["job"]["state"])


def ended(process: "subprocess.Popen[str]") -> int | None:
    wait_for(lambda: process.poll() is not None, "the agent has ended", deadline_ms=SOON_MS)
    return process.returncode


def tells(process: "subprocess.Popen[str]", text: str) -> None:
    """Read on until the agent has said that."""
    assert process.stdout is not None
    said = []
    for line in islice(process.stdout, LINES_MAX):
        said.append(line)
        if text in line:
            return
    raise AssertionError(f"not told: {text!r}, but {said}")


def script(*lines: str) -> list[str]:
    return [sys.executable, "-c", "\n".join(lines)]


def test_an_agent_runs_several_jobs_at_once_and_ends_when_there_is_nothing_to_do(home: Home, tmp_path: Path) -> None:
    jobs = [home.submit(queue="many", payload=number) for number in range(6)]
    # Each waits until three are there: none would end if they ran one after the other.
    together = script(
        "import os, pathlib, time",
        f"here = pathlib.Path({str(tmp_path)!r})",
        "(here / os.environ['BROKER_JOB_ID']).touch()",
        "for _ in range(2000):",
        "    if len(list(here.iterdir())) >= 3: break",
        "    time.sleep(0.01)",
        "else: raise SystemExit(1)",
    )
    status, out, err = home.run(
        "agent", "--factory", "many-1", "--queue", "many", "--concurrency", "3", "--idle-exit", "0.5", "--json", "--",
        *together,
    )  # fmt: skip
    assert status == 0, err
    assert sorted(json.loads(line)["job_id"] for line in out.splitlines()) == sorted(jobs)
    assert {json.loads(line)["ending"] for line in out.splitlines()} == {"completed"}


@pytest.mark.parametrize(("command", "status"), [(["true"], 0), (["false"], 1)])
def test_once_runs_one_job_and_exits_by_what_became_of_it(home: Home, command: list[str], status: int) -> None:
    queue = f"once-{command[0]}"
    home.submit(queue=queue)
    left = home.submit(queue=queue)
    assert home.run("agent", "--queue", queue, "--once", "--", *command)[0] == status
    assert state(home, left) == "ready"


def test_an_agent_that_found_nothing_says_so(home: Home) -> None:
    assert home.run("agent", "--queue", "nothing", "--idle-exit", "0", "--", "true")[0] == 3


def test_an_agent_that_starts_before_its_broker_waits_for_it(
    agent: Start, start_valkey: StartValkey, tmp_path: Path
) -> None:
    server = start_valkey()
    server.stop()
    process = agent("--redis", server.url, "--factory", "early", "--timeout", "1", "--max-jobs", "1", "--", "true")
    tells(process, "not registered yet: Redis is not reachable")
    start_valkey()
    tells(process, "not registered yet: register_factory: no answer within 1000 ms; is a broker worker running?")
    fleet = Fleet(server.url, tmp_path)
    try:
        fleet.start_worker()
        with Client.connect(server.url, factory_id="f") as client:
            client.submit(job_id="j")
            assert ended(process) == 0
            assert client.job("j").body["job"]["state"] == "succeeded"
    finally:
        fleet.close()


def test_an_agent_without_a_broker_ends_when_it_is_told_to(agent: Start, tmp_path: Path) -> None:
    process = agent("--redis", f"unix://{tmp_path}/nobody.sock", "--factory", "alone", "--", "true")
    tells(process, "trying again in 2 s")
    process.send_signal(signal.SIGTERM)
    assert ended(process) == 0
    tells(process, "SIGTERM: ended before it was registered")


def test_an_agent_without_a_broker_is_without_work(home: Home, tmp_path: Path) -> None:
    nobody = f"unix://{tmp_path}/nobody.sock"
    status, _, err = home.run("agent", "--redis", nobody, "--idle-exit", "0", "--", "true")
    assert status == 3
    assert "not registered: Redis is not reachable" in err


def test_an_agent_ends_at_once_where_its_password_is_refused(home: Home, start_valkey: StartValkey) -> None:
    server = start_valkey()
    with redis.Redis.from_url(server.url) as operator:
        operator.config_set("requirepass", "secret")
    status, _, err = home.run("agent", "--redis", server.url, "--", "true", env={"BROKER_REDIS_PASSWORD": "wrong"})
    assert status == 1
    assert "Redis refused the password" in err
    assert "trying again" not in err


def test_after_max_jobs_an_agent_ends(home: Home) -> None:
    jobs = [home.submit(queue="max") for _ in range(4)]
    assert home.run("agent", "--queue", "max", "--concurrency", "2", "--max-jobs", "3", "--", "true")[0] == 0
    assert sorted(state(home, job) for job in jobs) == ["ready", *["succeeded"] * 3]


def test_a_wrong_command_is_told_before_anything_is_claimed(home: Home) -> None:
    status, _, err = home.run("agent", "--", "no-such-command")
    assert (status, "no such command" in err) == (1, True)
    assert "\nnext: check its name and PATH" in err


def test_an_agent_whose_command_this_machine_can_not_run_ends_at_once_and_harms_no_job(
    home: Home, tmp_path: Path
) -> None:
    jobs = [home.submit(queue="unable") for _ in range(2)]
    command = tmp_path / "command"
    command.write_text("#!/no/such/interpreter\n")
    command.chmod(0o755)
    status, _, err = home.run("agent", "--factory", "unable-1", "--queue", "unable", "--", str(command))
    assert status == 1
    assert "released (can't run: No such file or directory; is it, or what its #! line names, still there?)" in err
    assert "no more work: this machine can't run the command" in err
    assert [state(home, job) for job in jobs] == ["ready", "ready"]
    runs = [run["outcome"] for job in jobs for run in home.lines("runs", job)]
    assert runs == ["released"], "one try, which burnt nothing"


def test_the_first_signal_lets_the_job_finish_and_takes_no_other(home: Home, agent: Start, tmp_path: Path) -> None:
    first, second = home.submit(queue="drain"), home.submit(queue="drain")
    go = tmp_path / "go"
    wait = script(f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)")
    process = agent("--factory", "drain-1", "--queue", "drain", "--", *wait)
    wait_for(lambda: state(home, first) == "leased", "the job runs", deadline_ms=SOON_MS)
    process.send_signal(signal.SIGTERM)
    go.touch()
    assert ended(process) == 0
    assert (state(home, first), state(home, second)) == ("succeeded", "ready")


def test_the_second_signal_stops_the_command_and_releases_its_job(home: Home, agent: Start) -> None:
    job = home.submit(queue="twice")
    process = agent("--factory", "twice-1", "--queue", "twice", "--", "sleep", "600")
    wait_for(lambda: state(home, job) == "leased", "the job runs", deadline_ms=SOON_MS)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    assert ended(process) == 0
    [run] = home.lines("runs", job)
    assert (run["outcome"], state(home, job)) == ("released", "ready")


@pytest.mark.parametrize(
    ("starter", "ignored"),
    [(["nohup"], signal.SIGHUP), (["sh", "-c", 'trap "" INT; exec "$@"', "sh"], signal.SIGINT)],
    ids=["a hang-up under nohup", "Ctrl-C behind a script's &"],
)
def test_a_command_outlives_what_it_was_started_to_ignore(
    home: Home, tmp_path: Path, starter: list[str], ignored: signal.Signals
) -> None:
    job, go = home.submit(queue="nohup"), tmp_path / "go"
    command = script(f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)")
    where = ["--state-dir", str(home.path / ".broker"), "--factory", "nohup-1", "--queue", "nohup"]
    process = start([*starter, *BROKER, "exec", *where, "--", *command])
    try:
        wait_for(lambda: state(home, job) == "leased", "the job runs", deadline_ms=SOON_MS)
        process.send_signal(ignored)
        go.touch()
        assert (ended(process), state(home, job)) == (0, "succeeded")
    finally:
        end(process)


def test_stop_after_is_the_second_signal(home: Home, agent: Start) -> None:
    job = home.submit(queue="after")
    process = agent("--factory", "after-1", "--queue", "after", "--stop-after", "0.1", "--", "sleep", "600")
    wait_for(lambda: state(home, job) == "leased", "the job runs", deadline_ms=SOON_MS)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == 0
    assert state(home, job) == "ready"


def test_an_agent_that_waits_stops_at_once_and_leaves_no_claim_behind(home: Home, agent: Start) -> None:
    process = agent("--factory", "idle-1", "--queue", "idle", "--", "true")
    wait_for(lambda: home.json("status")[1]["parked"] == 1, "its claim waits", deadline_ms=SOON_MS)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == 0
    assert home.json("status")[1]["parked"] == 0
    job = home.submit(queue="idle")
    assert home.claim("idle", factory="another")["job_id"] == job


def test_a_cancel_stops_the_command_long_before_the_next_renewal(home: Home, agent: Start) -> None:
    job = home.submit(queue="cancel")
    agent("--factory", "cancel-1", "--queue", "cancel", "--ttl", "10m", "--", "sleep", "600")
    wait_for(lambda: state(home, job) == "leased", "the job runs", deadline_ms=SOON_MS)
    assert home.json("cancel", job, "--reason", "enough")[0] == 0
    wait_for(lambda: state(home, job) == "cancelled", "it is cancelled", deadline_ms=SOON_MS)
    [run] = home.lines("runs", job)
    assert run["outcome"] == "cancelled"
    assert run["ended_ms"] - run["started_ms"] < 60_000, "its first renewal is due after 100 s"


def test_an_agent_obeys_an_operators_drain_and_works_again_when_it_is_resumed(home: Home, agent: Start) -> None:
    agent("--factory", "op-1", "--queue", "op", "--", "true")
    wait_for(lambda: home.json("status")[1]["parked"] == 1, "its claim waits", deadline_ms=SOON_MS)
    assert home.run("factory", "drain", "op-1", "--note", "disk", "--for", "1h")[0] == 0
    wait_for(lambda: home.json("status")[1]["parked"] == 0, "its claim was answered", deadline_ms=SOON_MS)
    job = home.submit(queue="op")
    [shown] = [each for each in map(json.loads, home.run("factory", "list", "--json")[1].splitlines())
               if each["factory"] == "op-1"]  # fmt: skip
    assert (shown["drain"]["reason"], state(home, job)) == ("disk", "ready")
    assert home.run("factory", "resume", "op-1")[0] == 0
    wait_for(lambda: state(home, job) == "succeeded", "it works again", deadline_ms=SOON_MS)


def test_a_second_start_of_a_factory_ends_what_the_first_one_held_and_the_first_one_too(
    home: Home, agent: Start
) -> None:
    job = home.submit(queue="start")
    first = agent("--factory", "start-1", "--queue", "start", "--ttl", "10m", "--", "sleep", "600")
    wait_for(lambda: state(home, job) == "leased", "the job runs", deadline_ms=SOON_MS)
    assert home.run("agent", "--factory", "start-1", "--queue", "start", "--once", "--", "true")[0] == 0
    outcomes: list[Any] = [(run["epoch"], run["outcome"]) for run in home.lines("runs", job)]
    assert outcomes == [(1, "expired"), (2, "succeeded")]
    assert ended(first) == 1, "its start is over: it gets no more work"
    assert "no more work: another start of this factory has registered" in first.communicate()[0]


def test_a_drain_until_a_time_that_is_past_is_a_mistake_and_ends_no_other(home: Home) -> None:
    assert home.run("factory", "drain", "past-1", "--note", "stands")[0] == 0
    status, _, err = home.run("factory", "drain", "past-1", "--until", "2020-01-01T00:00:00Z")
    assert status == 2
    assert "it is past" in err
    assert home.lines("factory", "show", "past-1")[0]["drain"]["reason"] == "stands"
    for still in (("--for", "1h"), ("--until", "+1h")):
        assert home.run("factory", "drain", "past-1", *still)[1].startswith("factory past-1 is draining until ")


def test_a_lease_is_handed_over_by_command_to_an_agent_that_waits(home: Home, agent: Start) -> None:
    job = home.submit(queue="hand")
    grant = home.claim("hand", factory="giver")
    agent("--factory", "heir", "--queue", "hand", "--", "true")
    wait_for(lambda: home.json("status")[1]["parked"] == 1, "the heir waits", deadline_ms=SOON_MS)
    held = [job, "--epoch", "1", "--token", grant["token"], "--factory", "giver"]
    assert home.json("hand-over", *held, "--to", "heir")[0] == 0
    wait_for(lambda: state(home, job) == "succeeded", "the heir has done it", deadline_ms=SOON_MS)
    assert [(run["factory_id"], run["outcome"]) for run in home.lines("runs", job)] == [
        ("giver", "released"), ("heir", "succeeded"),
    ]  # fmt: skip
