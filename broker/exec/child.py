"""The command as a process: its payload, its group, and how it is stopped."""

import json
import os
import queue
import signal
import tempfile
import threading
from contextlib import suppress

from broker.client import Lease
from broker.client.logger import Logger
from broker.clock import monotonic_ms
from broker.exec.command import Command
from broker.exec.environment import without_secrets
from broker.exec.events import HEAR_S, Cause, Events, Exited, Told

log = Logger(__name__)


class Child:
    """The command, in a process group of its own, which is stopped as a whole.

    Raises:
      OSError: it can't be started.
    """

    def __init__(self, lease: Lease, command: Command, events: Events) -> None:
        environ = {
            **without_secrets(command.environ),
            "BROKER_JOB_ID": lease.job_id,
            "BROKER_LEASE_EPOCH": str(lease.epoch),
            "BROKER_QUEUE": lease.queue,
            "BROKER_ATTEMPT": str(lease.failures + 1),
        }
        # A file, not a pipe: a command that never reads, or stops reading, then hinders nobody.
        with tempfile.TemporaryFile() as payload:
            payload.write(json.dumps(lease.payload, ensure_ascii=False).encode())
            payload.seek(0)
            self._process = command.start(
                command.argv, stdin=payload, stdout=command.stdout, env=environ, process_group=0
            )
        self._events = events
        self._waiter = threading.Thread(target=self._wait, name="broker-exec-wait", daemon=True)
        self._waiter.start()

    def supervise(self, grace_ms: int) -> tuple[int, Cause | None]:
        """Wait for the command to end, and stop it where there is cause. Its status, and the first cause."""
        cause: Cause | None = None
        kill_at_ms: int | None = None
        while True:
            left_s = HEAR_S if kill_at_ms is None else max(0, kill_at_ms - monotonic_ms()) / 1000
            try:
                event = self._events.get(timeout=min(HEAR_S, left_s))
            except queue.Empty:
                if kill_at_ms is not None and monotonic_ms() >= kill_at_ms:
                    self._signal(signal.SIGKILL)
                    kill_at_ms = None
                continue
            if isinstance(event, Exited):
                if cause is not None:
                    self._signal(signal.SIGKILL)  # what the command left in its group is stopped with it
                return event.status, cause
            log.info("command_stopping", cause=repr(event))
            # Asked a second time, there is no more grace.
            kill_at_ms = monotonic_ms() + (grace_ms if cause is None else 0)
            cause = cause or event
            self._signal(event.signal if isinstance(event, Told) else signal.SIGTERM)
            self._signal(signal.SIGCONT)  # a stopped process acts on nothing else

    def end(self) -> None:
        """Leave nothing of the command behind, whatever happened here."""
        if self._waiter.is_alive():
            self._signal(signal.SIGKILL)
        self._waiter.join()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # gone; macOS says PermissionError of a group of zombies
            os.killpg(self._process.pid, number)

    def _wait(self) -> None:
        self._events.put(Exited(self._process.wait()))
