"""Starts and stops the one fleet of a state folder."""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from random import Random

from broker.clock import host_now_ms, monotonic_ms, sleep_ms
from workers.children import read_statuses
from workers.fleet import GRACE_MS, ChildSpec, Supervisor
from workers.process_identity import ProcessIdentity
from workers.server_files import remove_socket_dir, socket_dir
from workers.state_dir import Endpoint, StateDir, StateDirError

UP_TIMEOUT_MS = 60_000
DOWN_TIMEOUT_MS = 3 * GRACE_MS
"""Two stages with their grace, and time to see it."""
_POLL_MS = 50
_LOG_LINES_SHOWN = 20


class DaemonError(Exception):
    """The fleet did not start, or did not end; the message says what is left running."""


def serve(
    state: StateDir,
    specs: Sequence[ChildSpec],
    *,
    redis_url: str,
    datastore_url: str,
    random: Random,
    on_ready: Callable[[Endpoint], None] = lambda _: None,
) -> None:
    """Be the fleet of this folder until SIGTERM or SIGINT. The endpoint file exists only while every child was ready.

    Raises:
      StateDirError: another fleet runs here, and nothing was started; or the folder was removed, and all was stopped.
    """

    def publish() -> None:
        own = ProcessIdentity.own()
        endpoint = Endpoint(redis_url, datastore_url, own.pid, own.started, host_now_ms())
        state.write_endpoint(endpoint)
        on_ready(endpoint)

    with state.supervised() as stands:
        state.remove_endpoint()  # of a fleet that was killed
        outside = socket_dir(state)  # asked now: the state folder may be gone in the end
        try:
            Supervisor(specs, state, random=random, stands=stands).run(publish)
        finally:
            remove_socket_dir(outside)
            if stands():
                state.remove_endpoint()


def detach(
    argv: Sequence[str],
    state: StateDir,
    *,
    env: Mapping[str, str] | None = None,
    timeout_ms: int = UP_TIMEOUT_MS,
    grace_ms: int = DOWN_TIMEOUT_MS,
) -> Endpoint:
    """Run `argv`, a command that ends in `serve` on this folder, in a session of its own; return once it serves.

    It outlives the caller and its terminal. Its output goes to `logs/up.log`. `env` is added to the caller's own.

    Raises:
      StateDirError: a fleet runs here already.
      DaemonError: it ended, or did not serve in time and was stopped; shows the end of its log.
      KeyboardInterrupt: the user's; it was stopped.
    """
    if state.supervisor() is not None:
        raise StateDirError(f"a fleet already runs in {state.path}; see `broker status`, or stop it with `broker down`")
    with state.open_log("up") as log:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    try:
        served = _wait_for(lambda: state.running() is not None or process.poll() is not None, timeout_ms)
    except BaseException:  # whoever interrupts this wants no fleet, and in its own session it would not hear of that
        _stop(process, grace_ms)
        raise
    if served:
        if (endpoint := state.running()) is not None:
            return endpoint
        what = f"the fleet ended with status {process.returncode}"
    else:
        _stop(process, grace_ms)
        what = f"the fleet did not serve within {timeout_ms} ms and was stopped"
    log_path = state.log_dir / "up.log"
    lines = log_path.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
    raise DaemonError("\n".join([f"{what}; the end of {log_path}:", *lines]))


def _stop(process: "subprocess.Popen[bytes]", grace_ms: int) -> None:
    process.terminate()
    if not _wait_for(lambda: process.poll() is not None, grace_ms):
        process.kill()  # its children are leashed
        process.wait()


def down(state: StateDir, *, timeout_ms: int = DOWN_TIMEOUT_MS) -> bool:
    """Stop the fleet of this folder; return when all that it ran is gone. False: none was running.

    A supervisor that does not end in time is killed, which kills its children (see `leash`).

    Raises:
      DaemonError: something of it still runs.
    """
    supervisor = state.supervisor()
    if supervisor is None and not _left(state):
        return False
    if supervisor is not None:
        os.kill(supervisor.pid, signal.SIGTERM)
        if not _wait_for(lambda: not supervisor.alive(), timeout_ms):
            os.kill(supervisor.pid, signal.SIGKILL)
    if not _wait_for(lambda: not _left(state), timeout_ms):
        raise DaemonError(f"still running after {timeout_ms} ms: {', '.join(_left(state))}")
    state.remove_endpoint()
    with suppress(StateDirError, OSError), state.supervised():  # one that starts just now keeps its own
        remove_socket_dir(socket_dir(state))  # of a supervisor that was killed
    return True


def _left(state: StateDir) -> list[str]:
    left = [f"{child.name} (pid {child.pid})" for child in read_statuses(state) if child.alive()]
    supervisor = state.supervisor()
    return left + ([f"supervisor (pid {supervisor.pid})"] if supervisor is not None else [])


def _wait_for(condition: Callable[[], bool], timeout_ms: int) -> bool:
    deadline_ms = monotonic_ms() + timeout_ms
    while not condition():
        if monotonic_ms() >= deadline_ms:
            return False
        sleep_ms(_POLL_MS)
    return True
