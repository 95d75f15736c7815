"""Commands as factories: how exec runs one, stops it and ends the lease."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from broker.client import Client
from broker.exec import Command, CommandNotFound, Start, execute, start_plainly
from tests.fleet import Fleet
from tests.processes import alive, end, start_python, wait_for
from workers.guarded_start import GuardedStart
from workers.leash import leashed
from workers.leashed_start import start_leashed

pytestmark = pytest.mark.redis
TTL_MS = 1_000

_EXEC = """
import json, sys
from broker.client import Client
from broker.exec import Command, execute
from workers.guarded_start import GuardedStart
from workers.leashed_start import start_leashed
given = json.loads(sys.argv[1])
start = GuardedStart() if given["guarded"] else start_leashed
with Client.connect(given["url"], factory_id="exec") as client:
    if given["never_lost"]:  # the broken twin: a lease without a deadline of the holder's own
        from broker.client.tenure import Tenure
        Tenure.over = lambda self, now_ms: False
        Tenure.left_ms = lambda self, now_ms: 10_000
    command = Command(["sh", "-c", given["script"]], grace_ms=given["grace_ms"], start=start)
    result = execute(client, command, given["job_id"], wait_ms=given["wait_ms"], ttl_ms=given["ttl_ms"])
print("RESULT", json.dumps([result.ending, result.command_exit, result.detail]), flush=True)
"""


class Execs:
    """Exec processes of a test, each with one shell script, in a folder of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, script: str, job_id: str | None = "j", **changes: Any) -> "subprocess.Popen[str]":
        given: dict[str, Any] = {"url": self.url, "script": script, "job_id": job_id, "grace_ms": 20_000}
        given |= {"wait_ms": 0, "ttl_ms": TTL_MS, "never_lost": False, "guarded": True}
        process = start_python(_EXEC, json.dumps(given | changes))
        self.processes.append(process)
        return process

    def run(self, script: str, job_id: str | None = "j", **changes: Any) -> tuple[Any, ...]:
        return result(self.start(script, job_id, **changes))

    def path(self, name: str) -> Path:
        return self.folder / name

    def wait_for_file(self, name: str) -> str:
        wait_for(lambda: self.path(name).exists() and self.path(name).read_text(), f"{name} is written")
        return self.path(name).read_text()


def result(process: "subprocess.Popen[str]") -> tuple[Any, ...]:
    """(ending, command's exit, detail) once the process has ended by itself."""
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    told: list[Any] = json.loads(output.rpartition("RESULT ")[2])
    return tuple(told)


@pytest.fixture
def client(fleet: Fleet) -> Iterator[Client]:
    fleet.start_worker()
    with Client.connect(fleet.redis_url, factory_id="f") as client:
        yield client


@pytest.fixture
def execs(fleet: Fleet, tmp_path: Path) -> Iterator[Execs]:
    execs = Execs(fleet.redis_url, tmp_path)
    yield execs
    for process in execs.processes:
        end(process)


def job(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.job("j").body["job"]
    return found


def run_of(client: Client) -> dict[str, Any]:
    run: dict[str, Any] = client.runs("j").body["runs"][-1]
    return run


def test_a_command_gets_the_payload_and_its_fence_and_completes_by_exit_zero(client: Client, execs: Execs) -> None:
    payload = {"text": "ü\n" * 100}
    client.submit(payload, job_id="j")
    script = f"cat > '{execs.path('payload')}'; env | grep ^BROKER_ | sort > '{execs.path('env')}'"
    assert execs.run(script) == ("completed", 0, "exit status 0")
    assert json.loads(execs.path("payload").read_text(encoding="utf-8")) == payload
    fence = ["BROKER_ATTEMPT=1", "BROKER_JOB_ID=j", "BROKER_LEASE_EPOCH=1", "BROKER_QUEUE=default"]
    assert execs.path("env").read_text().splitlines() == fence, "and no token"
    assert (job(client)["state"], run_of(client)["result"]) == ("succeeded", {"exit_code": 0})


@pytest.mark.parametrize("script", ["true", "exec 0<&-; true", "head -c 1 > /dev/null"])
def test_a_command_need_not_read_a_large_payload(client: Client, execs: Execs, script: str) -> None:
    client.submit({"large": "x" * 65_000}, job_id="j")
    assert execs.run(script)[0] == "completed"


@pytest.mark.parametrize(
    ("script", "detail", "outcome", "state"),
    [
        ("exit 3", "exit status 3", {"exit_code": 3}, "scheduled"),
        ("exit 127", "exit status 127", {"exit_code": 127}, "scheduled"),
        ("exit 75", "exit status 75", {"exit_code": 75}, "scheduled"),
        ("exit 65", "exit status 65", {"exit_code": 65}, "failed"),
        ("kill -SEGV $$", "ended by SIGSEGV", {"signal": "SIGSEGV"}, "scheduled"),
    ],
)
def test_a_failing_command_fails_its_try(
    client: Client, execs: Execs, script: str, detail: str, outcome: object, state: str
) -> None:
    client.submit(job_id="j")
    assert execs.run(script)[::2] == ("failed", detail)
    assert (job(client)["state"], run_of(client)["error"], run_of(client)["result"]) == (state, detail, outcome)


@pytest.mark.usefixtures("client")
def test_where_nothing_is_available_nothing_is_run(execs: Execs) -> None:
    assert execs.run(f"touch '{execs.path('ran')}'", None)[0] == "not_granted"
    assert not execs.path("ran").exists()


def test_an_exec_that_waits_gets_the_job_that_comes(client: Client, fleet: Fleet, execs: Execs) -> None:
    waiting = execs.start("true", None, wait_ms=30_000)
    wait_for(lambda: fleet.redis.hlen("broker:waiting"), "the claim waits")
    client.submit(job_id="j")
    assert result(waiting)[0] == "completed"


def test_a_command_that_does_not_exist_claims_nothing(client: Client) -> None:
    client.submit(job_id="j")
    with pytest.raises(CommandNotFound):
        execute(client, Command(["no-such-command-here"]), "j")
    assert (job(client)["state"], job(client)["epoch"]) == ("ready", 0)


def starts_mute(argv: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
    """The broken twin: in a leash that has nothing but its exit status to tell that the command did not start."""
    return subprocess.Popen(leashed(argv), **options)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\x7fELF no program", "Exec format error; was it built for another machine?"),
        (b"#!/no/such/interpreter\n", "No such file or directory; is it, or what its #! line names, still there?"),
        (b"echo a script without it\n", "Exec format error; was it built for another machine? Let a script begin"),
    ],
    ids=["for another machine", "without its interpreter", "without a #! line"],
)
@pytest.mark.parametrize(
    ("start", "ending"),
    [
        (start_plainly, "released"),
        (partial(start_leashed, watch=False), "released"),
        (partial(start_leashed, watch=True), "released"),
        (starts_mute, "failed"),
    ],
    ids=["plain", "leashed", "watched", "twin"],
)
def test_a_command_that_can_not_be_started_gives_the_job_back_unharmed(
    client: Client, tmp_path: Path, content: bytes, why: str, start: Start, ending: str
) -> None:
    client.submit(job_id="j")
    broken = tmp_path / "broken"
    broken.write_bytes(content)
    broken.chmod(0o755)
    result = execute(client, Command([str(broken)], start=start), "j")
    assert result.ending == ending
    counters = job(client)["counters"]
    assert (counters["failures"], counters["releases"]) == ((0, 1) if ending == "released" else (1, 0))
    if ending == "released":
        assert result.detail.startswith(f"can't run: {why}")
        assert run_of(client)["error"] == result.detail


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_told_to_stop_it_passes_the_signal_on_and_releases(
    client: Client, execs: Execs, number: signal.Signals
) -> None:
    client.submit(job_id="j")
    name = number.name.removeprefix("SIG")
    heard, ready = execs.path("heard"), execs.path("ready")
    process = execs.start(f"trap 'echo {name} > \"{heard}\"; exit 0' {name}; echo y > '{ready}'; sleep 60 & wait")
    execs.wait_for_file("ready")
    process.send_signal(number)
    assert result(process) == ("released", 0, f"stopped by SIG{name}"), "its exit status says nothing of the work"
    assert heard.read_text().strip() == name
    assert (job(client)["state"], job(client)["counters"]["failures"]) == ("ready", 0)


@pytest.mark.usefixtures("client")
def test_told_to_stop_while_it_waits_it_ends_without_a_job(fleet: Fleet, execs: Execs) -> None:
    process = execs.start("true", None, wait_ms=60_000)
    wait_for(lambda: fleet.redis.hlen("broker:waiting"), "the claim waits")
    process.terminate()
    assert result(process)[0] == "released"


def test_a_command_that_ignores_term_is_killed_after_the_grace_with_its_group(client: Client, execs: Execs) -> None:
    client.submit(job_id="j")
    script = f"trap '' TERM; sleep 60 & echo $! > '{execs.path('pid')}'; while :; do sleep 1; done"
    process = execs.start(script, grace_ms=200)
    pid = int(execs.wait_for_file("pid"))
    process.terminate()
    assert result(process)[:2] == ("released", -signal.SIGKILL)
    wait_for(lambda: not alive(pid), "its background process is gone")


def test_a_cancel_stops_the_command_and_is_acknowledged(client: Client, execs: Execs) -> None:
    client.submit(job_id="j")
    process = execs.start(f"echo y > '{execs.path('ready')}'; exec sleep 60")
    execs.wait_for_file("ready")
    assert client.cancel("j").good
    assert result(process)[:2] == ("cancelled", -signal.SIGTERM)
    assert (job(client)["state"], run_of(client)["outcome"]) == ("cancelled", "cancelled")


def test_a_revoked_lease_stops_the_command_and_completes_nothing(client: Client, execs: Execs) -> None:
    client.submit(job_id="j")
    process = execs.start(f"trap 'exit 0' TERM; echo y > '{execs.path('ready')}'; sleep 60 & wait")
    execs.wait_for_file("ready")
    client.revoke("j")
    assert result(process)[0] == "lease_lost"
    assert (job(client)["state"], run_of(client)["outcome"]) == ("ready", "revoked")


def test_where_redis_is_full_until_the_lease_is_over_nobody_was_told_how_the_command_ended(
    client: Client, fleet: Fleet, execs: Execs
) -> None:
    client.submit(job_id="j")
    go = execs.path("go")
    script = f"echo y > '{execs.path('ready')}'; while [ ! -e '{go}' ]; do sleep 0.02; done"
    process = execs.start(script, ttl_ms=5_000)
    execs.wait_for_file("ready")
    fleet.redis.config_set("maxmemory", 1)
    go.touch()
    try:
        ending, _, detail = result(process)
    finally:
        fleet.redis.config_set("maxmemory", 0)
    assert ending == "unknown"
    assert "nothing was sent" in detail
    assert job(client)["epoch"] == 1, "it is over by itself"


@pytest.mark.parametrize(
    ("command", "never_lost", "ending", "state"),
    [
        ("still runs", False, "lease_lost", "leased"),
        ("has ended", False, "lease_lost", "leased"),
        ("has ended", True, "completed", "succeeded"),
    ],
)
def test_an_exec_stopped_past_its_ttl_completes_nothing(
    client: Client, execs: Execs, command: str, never_lost: bool, ending: str, state: str
) -> None:
    """No sweep runs, so the broker would still accept the completion, and from the broken twin it does."""
    client.submit(job_id="j")
    go = execs.path("go")
    script = f"echo $$ > '{execs.path('pid')}'; while [ ! -e '{go}' ]; do sleep 0.02; done"
    process = execs.start(script, never_lost=never_lost)
    pid = int(execs.wait_for_file("pid"))
    process.send_signal(signal.SIGSTOP)
    expires_ms = job(client)["lease"]["expires_ms"]
    if command == "has ended":
        go.touch()
        wait_for(lambda: not alive(pid), "the command has ended")
    wait_for(lambda: client.job("j").server_now_ms > expires_ms, "the ttl has passed")
    process.send_signal(signal.SIGCONT)
    assert result(process)[0] == ending
    assert not alive(pid)
    assert job(client)["state"] == state


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the leash polls, and is tested with itself")
def test_the_command_dies_with_a_killed_exec(client: Client, execs: Execs) -> None:
    client.submit(job_id="j")
    process = execs.start(f"echo $$ > '{execs.path('pid')}'; while :; do sleep 0.02; done")
    pid = int(execs.wait_for_file("pid"))
    process.kill()
    wait_for(lambda: not alive(pid), "the command is gone")
    assert job(client)["state"] == "leased", "until its lease expires"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the leash polls, and is tested with itself")
@pytest.mark.parametrize(("guarded", "lives"), [(True, False), (False, True)], ids=["guarded", "twin"])
def test_what_the_command_has_started_dies_with_a_killed_exec_too(
    client: Client, execs: Execs, guarded: bool, lives: bool
) -> None:
    client.submit(job_id="j")
    process = execs.start(f"sleep 60 & echo $$ $! > '{execs.path('pids')}'; wait", guarded=guarded)
    command, started = map(int, execs.wait_for_file("pids").split())
    process.kill()
    wait_for(lambda: not alive(command), "the command is gone")
    if not lives:
        wait_for(lambda: not alive(started), "so is what it has started")
        return
    assert alive(started)
    os.kill(started, signal.SIGKILL)


def guards_of(pid: int) -> list[int]:
    """The guards that this process has started, and that live."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for each in threads for child in each.read_text().split()]
    return [child for child in children if b"group_guard.py" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_what_a_command_leaves_behind_as_it_ends_by_itself_stays(client: Client, execs: Execs) -> None:
    client.submit(job_id="j")
    go_on = execs.path("go-on")
    process = execs.start(
        f"sleep 60 > /dev/null 2>&1 & echo $! > '{execs.path('pid')}'; while [ ! -e '{go_on}' ]; do sleep 0.02; done"
    )
    left = int(execs.wait_for_file("pid"))
    [guard] = wait_for(lambda: guards_of(process.pid), "its guard runs")
    go_on.touch()
    assert result(process)[0] == "completed"
    wait_for(lambda: not alive(guard), "the guard has ended with exec")
    assert alive(left)
    os.kill(left, signal.SIGKILL)


@pytest.fixture
def options() -> Iterator[dict[str, Any]]:
    """Of a command that a test starts by itself."""
    with Path(os.devnull).open("rb") as nothing:
        yield {"stdin": nothing, "stdout": None, "env": os.environ, "process_group": 0}


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_guard_that_was_killed_is_replaced_with_the_next_command_and_the_new_one_knows_all(
    options: dict[str, Any],
) -> None:
    start, others = GuardedStart(), guards_of(os.getpid())
    command = start(["sleep", "60"], **options)
    [first] = [guard for guard in guards_of(os.getpid()) if guard not in others]
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: not alive(first), "it is gone")
    assert start(["true"], **options).wait() == 0
    [second] = [guard for guard in guards_of(os.getpid()) if guard not in others]
    assert second != first
    del start  # as with a process that ends; the command still has it
    assert alive(command.pid)
    command._start._let_go()  # type: ignore[attr-defined]  # what the end of the process does
    assert command.wait() == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_where_no_guard_can_be_had_commands_end_as_ever(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    start, others = GuardedStart(), guards_of(os.getpid())
    command = start(["sleep", "60"], **options)
    [guard] = [each for each in guards_of(os.getpid()) if each not in others]
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    os.kill(guard, signal.SIGKILL)
    wait_for(lambda: not alive(guard), "it is gone")
    os.kill(command.pid, signal.SIGTERM)
    assert command.wait() == -signal.SIGTERM
