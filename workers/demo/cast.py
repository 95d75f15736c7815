"""The processes of the demo: started on a leash, so that not even a SIGKILL of the demo leaves one behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from broker.client.recording import VARIABLE as HISTORY
from workers.leash import leashed

STOP_TIMEOUT_S = 15
"""The broker stops its children in two stages; what outlives this is killed, and its children with it."""
LOG_LINES_SHOWN = 15


class Cast:
    """Starts processes from the main thread; ends every one of them when the block ends, however it ends."""

    def __init__(self, logs: Path, env: Mapping[str, str]) -> None:
        self._logs = logs
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BROKER_") or name == HISTORY}
        self._env = kept | dict(env)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._forgotten: set[str] = set()

    def __enter__(self) -> "Cast":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The broker last, so that nobody sees it go."""
        broker, *others = [*self._processes, ""]
        self.stop(others[:-1])
        self.stop([broker] if broker else [])

    def start(self, name: str, module: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        """Run a module of ours in a process of its own; its output goes to its log.

        In a process group of its own too: Ctrl-C in a terminal reaches the demo alone, which stops them in order.
        """
        with self.log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                leashed([sys.executable, "-P", "-m", module, *arguments]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self._env, **(env or {})},
                process_group=0,
            )

    def forget(self, name: str) -> None:
        """It is about to be killed: `ended` does not tell of it. It is reaped with the others."""
        self._forgotten.add(name)

    def ended(self) -> str | None:
        """One that runs no more and was not forgotten, if there is any."""
        watched = (name for name in self._processes if name not in self._forgotten)
        return next((name for name in watched if self._processes[name].poll() is not None), None)

    def stop(self, names: Sequence[str]) -> None:
        """Ask them to end, kill those that do not, and return when they are gone."""
        stopping = [self._processes.pop(name) for name in names]
        for process in stopping:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)  # a stopped process would not notice that it is asked
                process.terminate()
        for process in stopping:
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def log(self, name: str) -> Path:
        """What it said."""
        return self._logs / f"{name}.log"

    def log_end(self, name: str) -> str:
        """The last lines of its log, for an error message."""
        lines = self.log(name).read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        return "\n".join([f"the end of {self.log(name)}:", *lines])
