"""The processes of a campaign: one supervisor with its workers and sweep, factories, and a submitter."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from random import Random

from tests.chaos.work import TIMING
from workers.children import read_statuses
from workers.leash import leashed
from workers.state_dir import StateDir

ROOT = Path(__file__).parents[2]
WORKERS = 2
SUPERVISOR, SUBMITTER = "supervisor", "submitter"
END_S = 15


class Fleet:
    """Starts processes and keeps them there: what was killed, or has ended, is started again by `tend`.

    `command_line` is the module that serves: the product's, or a broken twin of it.
    """

    def __init__(self, folder: Path, redis_url: str, *, factories: int, per_second: int, command_line: str) -> None:
        self._folder = folder
        self._state = StateDir.at(folder / "state")
        self._command_line = command_line
        self._submit = ["tests.chaos.submitter", "--history", str(folder / "history"), "--per-second", str(per_second)]
        self._factories = [f"factory-{number}" for number in range(1, factories + 1)]
        outside = {name: value for name, value in os.environ.items() if not name.startswith("BROKER_")}
        self._env = outside | TIMING | {
            "BROKER_REDIS_URL": redis_url,
            "BROKER_STATE_DIR": str(self._state.path),
            "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def datastore_url(self) -> str:
        """Where its jobs are."""
        return self._state.datastore_url

    def start_broker(self) -> None:
        """The supervisor, which starts the workers and the sweep."""
        arguments = ["up", "--workers", str(WORKERS), "--state-dir", str(self._state.path)]
        self._start(SUPERVISOR, [self._command_line, *arguments])

    def start_clients(self) -> None:
        """Everybody else."""
        for name in self._factories:
            self._start_factory(name)
        self._start(SUBMITTER, self._submit)

    def tend(self) -> None:
        """Start again whatever does not run: the part of systemd, and of the factories' hosts."""
        for name, process in list(self._processes.items()):
            if process.poll() is None:
                continue
            if name == SUPERVISOR:
                self.start_broker()
            elif name != SUBMITTER:
                self._start_factory(name)

    def serving(self) -> bool:
        """Whether the supervisor says that all of it serves."""
        return self._state.running() is not None

    def pick(self, kind: str, random: Random) -> int | None:
        """The pid of a living process of a kind: worker, sweep, factory, supervisor."""
        if kind == "factory":
            found = [self._processes[name] for name in self._factories]
            alive = [process.pid for process in found if process.poll() is None]
        elif kind == "supervisor":
            process = self._processes[SUPERVISOR]
            alive = [process.pid] if process.poll() is None else []
        else:
            statuses = read_statuses(self._state)
            alive = [each.pid for each in statuses if each.name.startswith(kind) and each.pid and each.alive()]
        return random.choice(alive) if alive else None

    def stop_submitting(self) -> None:
        """No new jobs; those that were begun are acknowledged first."""
        process = self._processes[SUBMITTER]
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S * 2)

    def close(self) -> None:
        """End everything, factories first."""
        for name in sorted(self._processes, key=lambda name: name == SUPERVISOR):
            process = self._processes[name]
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self._processes.values():
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start_factory(self, name: str) -> None:
        self._start(name, ["tests.chaos.factory", "--name", name, "--folder", str(self._folder)])

    def _start(self, name: str, module: list[str]) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                leashed([sys.executable, "-m", *module]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                process_group=0,
            )
