"""The supervisor: what ends is started again, what is stopped stays stopped, and nothing is left behind."""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from random import Random

import pytest

from broker.clock import ManualClock
from tests.processes import alive, end, start_python, wait_for
from workers.children import STATUS_FILE, ChildStatus, read_statuses
from workers.daemon import DaemonError, detach, down
from workers.fleet import RESTART_MAX_MS, SETTLED_MS, ChildSpec, Supervisor
from workers.server_files import ServerFiles, remove_socket_dir, socket_dir
from workers.signals import Signals
from workers.state_dir import StateDir, StateDirError

SLEEP = "import signal; signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"

FLEET = """
import sys
from random import Random
from pathlib import Path
from workers.daemon import serve
from workers.embedded import valkey_child
from workers.fleet import ChildSpec
from workers.server_files import ServerFiles
from workers.state_dir import StateDir

state = StateDir.at(sys.argv[1])
files = ServerFiles.of(state)
worker = (sys.executable, "-c", sys.argv[2])
serve(
    state,
    [ChildSpec("worker-1", worker), ChildSpec("worker-2", worker), valkey_child(files)],
    redis_url=files.url,
    datastore_url=state.datastore_url,
    random=Random(1),
)
"""


def python(name: str, code: str, **options: object) -> ChildSpec:
    return ChildSpec(name, (sys.executable, "-c", code), **options)  # type: ignore[arg-type]  # options of ChildSpec


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir.at(tmp_path / "a state")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@contextmanager
def supervising(state: StateDir, clock: ManualClock, *specs: ChildSpec, grace_ms: int = 0) -> Iterator[Supervisor]:
    """A supervisor whose clock moves when told; what it runs is ended with the block."""
    supervisor = Supervisor(
        specs, state, random=Random(1), grace_ms=grace_ms, now_ms=clock.now_ms, host_ms=clock.now_ms
    )
    with Signals() as signals:
        try:
            yield supervisor
        finally:
            supervisor.stop(signals)


def step_until_ended(supervisor: Supervisor, name: str, restarts: int) -> ChildStatus:
    def ended() -> ChildStatus | None:
        supervisor.step()
        return next((c for c in supervisor.status() if c.name == name and c.restarts == restarts and not c.pid), None)

    return wait_for(ended, f"{name} to end for the {restarts}. time")


def test_a_child_that_ends_is_started_again_after_its_delay_and_not_before(state: StateDir, clock: ManualClock) -> None:
    with supervising(state, clock, python("once", "raise SystemExit(3)")) as supervisor:
        status = step_until_ended(supervisor, "once", 1)
        assert status.last_exit == 3
        pause_ms = supervisor.step()
        assert pause_ms is not None
        clock.advance(int(pause_ms) - 1)
        supervisor.step()
        assert supervisor.status()[0].pid is None, "started before its time"
        clock.advance(2)
        supervisor.step()
        assert supervisor.status()[0].pid is not None


def test_the_delay_grows_while_a_child_ends_quickly_and_is_forgotten_once_it_lived_long(
    state: StateDir, clock: ManualClock
) -> None:
    with supervising(state, clock, python("flapping", "")) as supervisor:
        pauses_ms = []
        for restarts in range(1, 9):
            step_until_ended(supervisor, "flapping", restarts)
            pause_ms = supervisor.step()
            assert pause_ms is not None
            pauses_ms.append(pause_ms)
            clock.advance(RESTART_MAX_MS)
        assert max(pauses_ms[:2]) <= 800 < max(pauses_ms[5:]) <= RESTART_MAX_MS
        supervisor.step()
        clock.advance(SETTLED_MS)  # it "lives" ten seconds before the supervisor looks again
        step_until_ended(supervisor, "flapping", 9)
        pause_ms = supervisor.step()
        assert pause_ms is not None
        assert pause_ms <= 400


def test_a_killed_child_does_not_touch_the_others(state: StateDir, clock: ManualClock) -> None:
    with supervising(state, clock, python("a", SLEEP), python("b", SLEEP)) as supervisor:
        supervisor.step()
        a, b = supervisor.status()
        assert a.pid is not None
        os.kill(a.pid, signal.SIGKILL)
        assert step_until_ended(supervisor, "a", 1).last_exit == -signal.SIGKILL
        assert supervisor.status()[1] == b
        assert b.alive()


def test_children_wait_until_the_stage_below_is_ready(state: StateDir, clock: ManualClock, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    with supervising(
        state, clock, python("upper", SLEEP, stage=1), python("lower", SLEEP, stage=0, ready=ready.exists)
    ) as supervisor:
        assert supervisor.step() is not None, "nothing would ask again whether it is ready"
        assert [child.name for child in supervisor.status() if child.pid] == ["lower"]
        ready.touch()
        supervisor.step()
        assert [child.name for child in supervisor.status() if child.pid] == ["lower", "upper"]
        assert supervisor.step() is None, "all is well: nothing to do until a signal"


def test_output_and_environment_of_a_child_are_its_own(state: StateDir, clock: ManualClock) -> None:
    code = "import os, sys; print('to stdout', flush=True); sys.exit(os.environ['COLOUR'])"
    with supervising(state, clock, python("painter", code, env={"COLOUR": "red"})) as supervisor:
        step_until_ended(supervisor, "painter", 1)
    assert (state.log_dir / "painter.log").read_text() == "to stdout\nred\n"


def test_a_child_deaf_to_sigterm_is_killed_after_the_grace_and_reaped(state: StateDir, clock: ManualClock) -> None:
    with supervising(state, clock, python("deaf", STUBBORN)) as supervisor:
        supervisor.step()
        (child,) = supervisor.status()
        assert child.pid is not None
        wait_for(lambda: (state.log_dir / "deaf.log").read_text(), "the child to ignore SIGTERM")
        assert child.alive()
    assert not child.alive()
    with pytest.raises(ChildProcessError):
        os.waitpid(child.pid, os.WNOHANG)
    assert [status.last_exit for status in read_statuses(state)] == [-signal.SIGKILL]


def test_what_is_published_is_what_runs(state: StateDir, clock: ManualClock) -> None:
    with supervising(state, clock, python("a", SLEEP)) as supervisor:
        supervisor.step()
        assert read_statuses(state) == supervisor.status()
        assert read_statuses(state)[0].alive()
        assert read_statuses(state)[0].up_since_ms == clock.now_ms()
    assert not any(status.alive() for status in read_statuses(state))


def test_what_could_not_be_published_is_published_once_it_can_be(state: StateDir, clock: ManualClock) -> None:
    in_the_way = state.path / f".{STATUS_FILE}.{os.getpid()}"  # where a full disk is: the file can't be written
    in_the_way.mkdir()
    with supervising(state, clock, python("a", SLEEP)) as supervisor:
        supervisor.step()
        assert read_statuses(state) == []
        in_the_way.rmdir()
        supervisor.step()
        assert read_statuses(state) == supervisor.status()


@contextmanager
def fleet_in(state: StateDir, worker: str = SLEEP) -> Iterator["list[int]"]:
    """A served fleet as a process of its own: the pids of the supervisor, the server and two workers."""
    process = start_python(FLEET, str(state.path), worker)
    try:
        wait_for(lambda: state.running() or process.poll() is not None, "the fleet to serve")
        assert state.running() is not None, process.communicate()[0]
        pids = [process.pid, *(child.pid for child in read_statuses(state) if child.pid)]
        assert len(pids) == 4
        yield pids
    finally:
        end(process)
        wait_for(lambda: not any(child.alive() for child in read_statuses(state)), "the fleet's children to end")


@pytest.mark.redis
def test_a_killed_supervisor_takes_the_workers_and_the_server_along(state: StateDir) -> None:
    with fleet_in(state) as pids:
        assert [pid for pid in pids if not alive(pid)] == []
        os.kill(pids[0], signal.SIGKILL)
        wait_for(lambda: not any(alive(pid) for pid in pids), f"all of {pids} to end")
        assert state.running() is None, "a dead supervisor's endpoint file was believed"
    with fleet_in(state) as again:
        assert not set(again) & set(pids)


@pytest.mark.redis
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_workers_before_the_server(state: StateDir, number: int) -> None:
    worker = (
        "import os, pathlib, signal, sys;"
        f"sock = pathlib.Path({str(state.path / 'valkey.sock')!r});"
        "signal.signal(signal.SIGTERM, lambda *_: (print('server there:', sock.exists(), flush=True), sys.exit(0)));"
        "print('up', flush=True); signal.pause()"
    )
    with fleet_in(state, worker) as pids:
        logs = [state.log_dir / "worker-1.log", state.log_dir / "worker-2.log"]
        wait_for(lambda: all(log.read_text() == "up\n" for log in logs), "the workers to listen")
        os.kill(pids[0], number)
        wait_for(lambda: not any(alive(pid) for pid in pids), f"all of {pids} to end")
        assert [log.read_text() for log in logs] == ["up\nserver there: True\n"] * 2
        assert state.endpoint() is None
        assert [child.restarts for child in read_statuses(state)] == [0, 0, 0], "restarted while stopping"


@pytest.mark.redis
def test_a_killed_server_is_started_again_under_the_same_url_while_the_workers_stay(state: StateDir) -> None:
    with fleet_in(state) as pids:
        os.kill(pids[1], signal.SIGKILL)
        wait_for(
            lambda: [c for c in read_statuses(state) if c.name == "valkey" and c.restarts == 1 and c.alive()],
            "the server to be started again",
        )
        assert [child.pid for child in read_statuses(state)][1:] == pids[2:]


@pytest.mark.redis
def test_down_returns_when_all_of_the_fleet_is_gone(state: StateDir) -> None:
    assert not down(state)
    with fleet_in(state) as pids:
        assert down(state)
        assert [pid for pid in pids if alive(pid)] == []
        assert not down(state)


@pytest.mark.redis
@pytest.mark.parametrize("ended_by", ["down", "down, the supervisor hung", "its folder removed"])
def test_a_fleet_that_ends_leaves_no_folder_of_its_socket_behind_and_has_the_same_when_it_comes_again(
    tmp_path: Path, ended_by: str
) -> None:
    state = StateDir.at(tmp_path / ("long-" * 20))
    with fleet_in(state) as pids:
        outside = socket_dir(state)
        assert outside is not None
        assert outside.exists()
        if ended_by == "its folder removed":
            shutil.rmtree(state.path)
            wait_for(lambda: not any(alive(pid) for pid in pids), f"all of {pids} to end")
        else:
            if ended_by != "down":
                os.kill(pids[0], signal.SIGSTOP)
            assert down(state, timeout_ms=3_000)
        assert not outside.exists()
    if state.path.exists():
        assert ServerFiles.of(state).socket.parent == outside, "what clients were told holds"
        remove_socket_dir(outside)


@pytest.mark.redis
def test_down_ends_a_hung_supervisor(state: StateDir) -> None:
    with fleet_in(state) as pids:
        os.kill(pids[0], signal.SIGSTOP)
        assert down(
            state, timeout_ms=3_000
        )  # what the supervisor ran ends on its own, which takes a busy machine a while
        assert [pid for pid in pids if alive(pid)] == []


@pytest.mark.redis
def test_a_second_fleet_is_refused_and_the_first_goes_on(state: StateDir) -> None:
    with fleet_in(state) as pids:
        second = start_python(FLEET, str(state.path), SLEEP)
        output = second.communicate(timeout=60)[0]
        assert second.returncode != 0
        assert "a fleet already runs" in output
        assert state.running() is not None
        assert [pid for pid in pids if not alive(pid)] == []
        with pytest.raises(StateDirError, match="a fleet already runs"):
            detach([sys.executable, "-c", FLEET, str(state.path), SLEEP], state)


DETACH = """
import sys
from workers.daemon import detach
from workers.server_files import ServerFiles, remove_socket_dir, socket_dir
from workers.state_dir import StateDir
print(detach([sys.executable, "-c", *sys.argv[2:]], StateDir.at(sys.argv[1])).supervisor_pid)
"""


@pytest.mark.redis
def test_a_detached_fleet_serves_and_outlives_the_command_that_started_it(state: StateDir) -> None:
    command = start_python(DETACH, str(state.path), FLEET, str(state.path), SLEEP)
    output = command.communicate(timeout=30)[0]
    try:
        assert command.returncode == 0, output
        endpoint = state.running()
        assert endpoint is not None
        assert endpoint.supervisor_pid == int(output)
        assert os.getsid(endpoint.supervisor_pid) == endpoint.supervisor_pid, "it would die with the terminal"
        assert all(child.alive() for child in read_statuses(state))
    finally:
        assert down(state)


def test_a_fleet_that_ends_while_it_starts_shows_the_end_of_its_log(state: StateDir) -> None:
    with pytest.raises(DaemonError, match=r"status 1(.|\n)*no such datastore"):
        detach([sys.executable, "-c", "raise SystemExit('no such datastore')"], state)


@pytest.mark.parametrize("code", [SLEEP, STUBBORN], ids=["obedient", "deaf"])
def test_a_fleet_that_does_not_serve_in_time_is_stopped(state: StateDir, code: str) -> None:
    announced = "import os; print(os.getpid(), flush=True);" + code
    with pytest.raises(DaemonError, match="did not serve"):
        detach([sys.executable, "-c", announced], state, timeout_ms=5_000, grace_ms=100)
    pid = int((state.log_dir / "up.log").read_text().split()[0])
    assert not alive(pid)


def test_who_interrupts_the_start_of_a_fleet_has_none(state: StateDir) -> None:
    announced = "import os; print(os.getpid(), flush=True);" + SLEEP
    command = start_python(DETACH, str(state.path), announced)
    try:
        log = state.log_dir / "up.log"
        pid = int(wait_for(lambda: log.read_text().strip() if log.exists() else None, "it starts"))
        command.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in command.communicate(timeout=30)[0]
        assert not alive(pid)
    finally:
        end(command)


@pytest.mark.redis
@pytest.mark.parametrize("then", ["nothing", "another fleet"])
def test_a_fleet_whose_folder_was_removed_stops_and_leaves_what_came_in_its_place_alone(
    state: StateDir, then: str
) -> None:
    with fleet_in(state) as pids:
        shutil.rmtree(state.path)
        assert not down(state), "nobody can find it there"
        again: AbstractContextManager[list[int]] = nullcontext([])
        if then == "another fleet":
            again = fleet_in(StateDir.at(state.path))
        with again as others:
            wait_for(lambda: not any(alive(pid) for pid in pids), f"all of {pids} to end")
            assert [pid for pid in others if not alive(pid)] == []
            assert state.path.exists() == bool(others)
            assert (state.running() is not None) == bool(others)
            assert len([child for child in read_statuses(state) if child.alive()]) == len(others[1:])


@pytest.mark.redis
def test_a_fleet_whose_folder_was_removed_says_so(state: StateDir) -> None:
    process = start_python(FLEET, str(state.path), SLEEP)
    try:
        wait_for(state.running, "the fleet to serve")
        shutil.rmtree(state.path)
        output = process.communicate(timeout=60)[0]
    finally:
        end(process)
    assert process.returncode == 1
    assert f"{state.path} was removed under its fleet, which was stopped" in output
