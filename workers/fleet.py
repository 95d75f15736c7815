"""Keeps the processes of one machine running: restarts what ends, stops all of them together.

What others do: OTP stops the whole tree after 3 restarts in 5 s, supervisord and systemd give a unit up after a few
quick exits (`startretries`, `StartLimitBurst`), the kubelet never does and waits longer each time, up to 5 min. Here
as the kubelet: a fleet has to outlive a Redis that is away for an hour without an operator, so there is no budget
that ends it, only a bound on how often it tries (10 s) and a status that shows it.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import structlog

from broker.clock import host_now_ms, monotonic_ms
from workers.children import ChildStatus, write_statuses
from workers.leash import leashed
from workers.process_identity import ProcessIdentity
from workers.signals import Signals
from workers.state_dir import StateDir, StateDirError

RESTART_MIN_MS = 200
RESTART_MAX_MS = 10_000
SETTLED_MS = 10_000
"""A child that lived this long is restarted as if it had never failed."""
GRACE_MS = 10_000
"""From SIGTERM to SIGKILL, for each stage: a worker finishes its batch, the server writes its file."""
_READY_POLL_MS = 50
_STOP_POLL_MS = 500
_LOOK_MS = 1_000
"""How often it is looked whether the state folder is still there."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A process to keep running. `env` is added to the supervisor's own environment."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    stage: int = 1
    """Started once every lower stage is ready; stopped before any lower stage."""
    ready: Callable[[], bool] | None = None
    """Asked until it first says yes; None: ready as soon as it runs. May take up to a second."""
    death_signal: signal.Signals = signal.SIGKILL
    """Sent by the kernel if the supervisor dies."""
    lock: Path | None = None
    """Held while it lives (see `leash`)."""


def restart_delay_ms(quick_exits: int, random: Random) -> float:
    """Pause before the next start: full jitter, from `RESTART_MIN_MS` to a bound that doubles with each quick exit."""
    bound_ms = min(RESTART_MAX_MS, RESTART_MIN_MS * 2 ** min(quick_exits, 30))
    return random.uniform(RESTART_MIN_MS, bound_ms)


@dataclass(slots=True)
class _Child:
    spec: ChildSpec
    process: "subprocess.Popen[bytes] | None" = None
    identity: ProcessIdentity | None = None
    ready: bool = False
    restarts: int = 0
    quick_exits: int = 0
    last_exit: int | None = None
    started_ms: int = 0
    up_since_ms: int = 0
    due_ms: float = 0

    def clear(self, exit_status: int | None) -> None:
        self.process, self.identity, self.ready, self.last_exit = None, None, False, exit_status

    def status(self) -> ChildStatus:
        pid, started = (self.identity.pid, self.identity.started) if self.identity else (None, None)
        return ChildStatus(
            self.spec.name, pid, started, self.restarts, self.last_exit, self.up_since_ms if pid else None
        )


class Supervisor:
    """Runs children until told to stop. One thread, the main one: signals arrive there, and leashes hang on it."""

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        state: StateDir,
        *,
        random: Random,
        grace_ms: int = GRACE_MS,
        stands: Callable[[], bool] = lambda: True,
        now_ms: Callable[[], int] = monotonic_ms,
        host_ms: Callable[[], int] = host_now_ms,
    ) -> None:
        self._children = [_Child(spec) for spec in sorted(specs, key=lambda spec: spec.stage)]
        self._state = state
        self._random = random
        self._grace_ms = grace_ms
        self._stands = stands
        self._now_ms = now_ms
        self._host_ms = host_ms
        self._published: Sequence[ChildStatus] = ()
        """What others can read."""
        self._publishing_failed = False

    def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Keep the children running until SIGTERM or SIGINT, then stop them; a second signal stops them at once.

        `on_ready` is called once, when every child was ready for the first time.

        Raises:
          StateDirError: the state folder was removed. The children are stopped: what they write is lost, and no
            `broker down` would find them.
        """
        announced = False
        with Signals() as signals:
            try:
                while signals.stops_asked == 0:
                    if not self._stands():
                        _log.error("state_folder_gone", path=str(self._state.path))
                        raise StateDirError(
                            f"{self._state.path} was removed under its fleet, which was stopped; start it again with "
                            "`broker up`"
                        )
                    pause_ms = self.step()
                    if not announced and all(child.ready for child in self._children):
                        announced = True
                        on_ready()
                    signals.wait(_LOOK_MS if pause_ms is None else min(pause_ms, _LOOK_MS))
            finally:
                self.stop(signals)

    def step(self) -> float | None:
        """One pass without waiting: reap what ended, start what is due. Returns the ms until more may be due."""
        for child in self._children:
            self._reap(child)
        pauses_ms = [pause_ms for child in self._children if (pause_ms := self._advance(child)) is not None]
        if self.status() != self._published:
            self._publish()
        return min(pauses_ms, default=None)

    def status(self) -> list[ChildStatus]:
        """Each child as of the last step, in the order of their start."""
        return [child.status() for child in self._children]

    def stop(self, signals: Signals) -> None:
        """End every child, the highest stage first: SIGTERM, then SIGKILL to what outlives the grace. None is left."""
        for stage in sorted({child.spec.stage for child in self._children}, reverse=True):
            self._stop_stage([child for child in self._children if child.spec.stage == stage], signals)
        self._publish()

    def _advance(self, child: _Child) -> float | None:
        if child.process is None:
            if not all(other.ready for other in self._children if other.spec.stage < child.spec.stage):
                return None  # the lower stage asks to be called again
            if (pause_ms := child.due_ms - self._now_ms()) > 0:
                return pause_ms
            try:
                self._start(child)
            except OSError as error:  # no memory, no process or no file left on this machine: as if it had ended
                _log.error("child_not_started", name=child.spec.name, error=str(error))
                return self._postpone(child)
        if not child.ready:
            child.ready = child.spec.ready is None or child.spec.ready()
        return None if child.ready else _READY_POLL_MS

    def _start(self, child: _Child) -> None:
        spec = child.spec
        with self._state.open_log(spec.name) as log:
            child.process = subprocess.Popen(
                leashed(spec.argv, death_signal=spec.death_signal, lock=spec.lock),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **spec.env},
                process_group=0,  # Ctrl-C in a terminal reaches the supervisor alone, which stops them in order
            )
        child.identity = ProcessIdentity.of(child.process.pid)
        child.started_ms, child.up_since_ms = self._now_ms(), self._host_ms()
        _log.info("child_started", name=spec.name, pid=child.process.pid, restarts=child.restarts)

    def _reap(self, child: _Child) -> None:
        if child.process is None or (exit_status := child.process.poll()) is None:
            return
        lived_ms = self._now_ms() - child.started_ms
        child.clear(exit_status)
        if lived_ms >= SETTLED_MS:
            child.quick_exits = 0
        pause_ms = self._postpone(child)
        _log.warning(
            "child_exited", name=child.spec.name, status=exit_status, lived_ms=lived_ms, restart_in_ms=round(pause_ms)
        )

    def _postpone(self, child: _Child) -> float:
        child.quick_exits += 1
        child.restarts += 1
        pause_ms = restart_delay_ms(child.quick_exits, self._random)
        child.due_ms = self._now_ms() + pause_ms
        return pause_ms

    def _stop_stage(self, children: Sequence[_Child], signals: Signals) -> None:
        processes = [child.process for child in children if child.process is not None]
        for process in processes:
            process.terminate()
        deadline_ms = self._now_ms() + self._grace_ms
        while any(process.poll() is None for process in processes) and signals.stops_asked < 2:
            if (left_ms := deadline_ms - self._now_ms()) <= 0:
                break
            signals.wait(min(left_ms, _STOP_POLL_MS))
        for process in processes:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # the group: a leash that watches is a process of its own
                process.wait()
        for child in children:
            child.clear(child.process.returncode if child.process else child.last_exit)

    def _publish(self) -> None:
        if not self._stands():  # there may be another fleet in its place
            return
        status = self.status()
        try:
            write_statuses(self._state, status)
        except OSError as error:  # a full disk must not end a fleet that runs; each step tries again
            if not self._publishing_failed:
                _log.error("status_not_published", error=str(error))
            self._publishing_failed = True
        else:
            self._published, self._publishing_failed = status, False
