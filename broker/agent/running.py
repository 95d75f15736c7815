"""The jobs an agent runs at this moment, each in a thread of its own that starts and ends its command."""

import queue
import signal
import threading
from collections.abc import Callable

from broker.client import Client, ClientError, LeaseLost, Reply
from broker.client.logger import Logger
from broker.exec import CancelAsked, Command, Ending, Events, ExecResult, Lost, Told, work
from broker.failures import trace

log = Logger(__name__)


class Running:
    """Starts a command for each grant, and tells `ended` what became of it."""

    def __init__(self, client: Client, command: Command, ended: Callable[[ExecResult], None]) -> None:
        self._client = client
        self._command = command
        self._ended = ended
        self._lock = threading.Lock()
        self._jobs: dict[threading.Thread, Events] = {}

    def start(self, grant: Reply) -> None:
        """Run the command for a job that was granted."""
        events: Events = queue.SimpleQueue()
        # The thread that starts the command stays until it has ended: the leash hangs on the thread (workers/leash.py).
        thread = threading.Thread(target=self._run, args=(grant, events), name=f"broker-job-{grant.body['job_id']}")
        with self._lock:
            self._jobs[thread] = events
        thread.start()

    def stop(self, number: signal.Signals) -> None:
        """Stop every command; each lease is released. Asked a second time, without grace."""
        with self._lock:
            for events in self._jobs.values():
                events.put(Told(number))

    def _run(self, grant: Reply, events: Events) -> None:
        result = self._result(grant, events)
        with self._lock:
            del self._jobs[threading.current_thread()]
        self._ended(result)

    def _result(self, grant: Reply, events: Events) -> ExecResult:
        job_id, epoch = grant.body["job_id"], grant.body["epoch"]
        guard = self._client.keep(
            grant,
            on_lost=lambda reason: events.put(Lost(reason)),
            on_cancel=lambda: events.put(CancelAsked()),
        )
        try:
            with guard as lease:
                return work(lease, self._command, events)
        except LeaseLost as error:
            return ExecResult(Ending.LEASE_LOST, error.reason, error.job_id, error.epoch)
        except ClientError as error:
            return ExecResult(Ending.UNKNOWN, str(error), job_id, epoch)
        except Exception as error:  # a mistake of ours must not end the agent; the guard has failed the job
            log.error("job_failed", job=job_id, exception=trace())
            return ExecResult(Ending.FAILED, f"{type(error).__name__}: {error}", job_id, epoch)
