"""The plot of the demo: start a fleet, submit, interrupt two holders, wait until all is done."""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from broker.client import Client, ClientError
from broker.clock import monotonic_ms, sleep_ms
from broker.jobfile import read_job_file
from broker.messages import SubmitBody
from datastore import Datastore, connect
from workers.demo.cast import Cast
from workers.demo.evidence import Ledger
from workers.demo.jobs import JOBS, KILLED_JOB, STOPPED_JOB, write_job_files
from workers.demo.records import Event, Record, read_records
from workers.demo.screen import Screen
from workers.state_dir import Endpoint, StateDir

FACTORIES = tuple(f"factory-{number:02}" for number in range(1, 21))
WORKERS = 2
BROKER = "broker"
DEADLINE_MS = 50_000
"""Of the whole run: a demo that hangs has failed, and says so within a minute."""
POLL_MS = 50
TIMING = {"BROKER_TTL_MS": "3000", "BROKER_SKEW_MS": "300", "BROKER_SWEEP_INTERVAL_MS": "500"}
"""Short, so that a take-over is seen within seconds; the renewals of a busy two-core machine still fit in."""

_T = TypeVar("_T")


class DemoError(Exception):
    """The plot could not be played to its end; the message says where it stopped."""


@dataclass(slots=True)
class Story:
    """One run in one folder. `submitted` has the jobs whose submission was acknowledged."""

    state: StateDir
    screen: Screen
    submitted: list[str] = field(default_factory=list)

    @property
    def records(self) -> Path:
        """Where the factories write."""
        return self.state.path / "records"

    def play(self) -> None:
        """Everything from the start of the fleet to its end. Nothing of it runs afterwards.

        Raises:
          DemoError: something did not happen in time, or a process ended that should not.
        """
        self.records.mkdir()
        with Cast(self.state.log_dir, {"BROKER_STATE_DIR": str(self.state.path), **TIMING}) as cast:
            wait = _Wait(cast, monotonic_ms() + DEADLINE_MS)
            endpoint = self._start_broker(cast, wait)
            self._start_factories(cast, wait, endpoint)
            try:
                self._submit(endpoint)
            except ClientError as error:
                raise DemoError(f"the jobs could not be submitted: {error}") from error
            with closing(connect(endpoint.datastore_url)) as store:
                wait.each_time = lambda: self._count(store)
                self._interrupt(wait, store)
                wait.until("every job has succeeded", lambda: Ledger.read(store).succeeded() >= set(self.submitted))

    def _start_broker(self, cast: Cast, wait: "_Wait") -> Endpoint:
        self.screen.say(f"starting Valkey, {WORKERS} broker workers and the sweep in {self.state.path}")
        cast.start(BROKER, "workers.cli", "up", "--workers", str(WORKERS), "--state-dir", str(self.state.path))
        return wait.until("the broker serves", self.state.running)

    def _start_factories(self, cast: Cast, wait: "_Wait", endpoint: Endpoint) -> None:
        self.screen.say(f"starting {len(FACTORIES)} factories")
        for name in FACTORIES:
            record = self.records / f"{name}.jsonl"
            env = {"BROKER_REDIS_URL": endpoint.redis_url}
            cast.start(name, "workers.demo.factory", "--name", name, "--record", str(record), env=env)
        wait.until("every factory has started", lambda: len(self._noted(Event.STARTED)) == len(FACTORIES))

    def _submit(self, endpoint: Endpoint) -> None:
        self.screen.say(f"submitting {JOBS} jobs from job files")
        files = write_job_files(self.state.path / "jobs")
        bodies = [SubmitBody.model_validate(job.body) for path in files for job in read_job_file(path)]
        with Client.connect(endpoint.redis_url, factory_id="demo") as client:
            replies = client.submit_many(bodies)
        self.submitted += [str(reply.body["job_id"]) for reply in replies if reply.good]

    def _interrupt(self, wait: "_Wait", store: Datastore) -> None:
        """Kill one holder for good; stop another until its job is somebody else's, then continue it."""
        killed = wait.until(f"somebody holds {KILLED_JOB}", lambda: self._holder(store, KILLED_JOB))
        wait.cast.forget(killed.factory)
        os.kill(killed.pid, signal.SIGKILL)
        self.screen.say(f"killed {killed.factory}, which held {killed.job} at epoch {killed.epoch}")
        stopped = wait.until(f"somebody holds {STOPPED_JOB}", lambda: self._holder(store, STOPPED_JOB))
        os.kill(stopped.pid, signal.SIGSTOP)
        self.screen.say(f"stopped {stopped.factory}, which held {stopped.job} at epoch {stopped.epoch}")
        wait.until(f"{STOPPED_JOB} is taken over", lambda: self._is_granted_above(stopped))
        os.kill(stopped.pid, signal.SIGCONT)
        self.screen.say(f"continued {stopped.factory}, which still has a result to send")
        wait.until(f"{stopped.factory} has had its late answer", lambda: self._answers_to(stopped))

    def _count(self, store: Datastore) -> None:
        ledger = Ledger.read(store)
        self.screen.count(done=len(ledger.succeeded()), takeovers=len(ledger.takeovers()))

    def _holder(self, store: Datastore, job: str) -> Record | None:
        """The factory that holds the job, by its own word and by the datastore's."""
        lease = Ledger.read(store).jobs.get(job, {}).get("lease") or {}
        claims = (record for record in self._noted(Event.CLAIMED) if record.job == job)
        held = (lease.get("incarnation"), lease.get("epoch"))
        return next((record for record in claims if (record.incarnation, record.epoch) == held), None)

    def _is_granted_above(self, holder: Record) -> bool:
        grants = (record for record in self._noted(Event.CLAIMED) if record.job == holder.job)
        return any((record.epoch or 0) > (holder.epoch or 0) for record in grants)

    def _answers_to(self, holder: Record) -> Sequence[Record]:
        answers = self._noted(Event.COMPLETED, Event.REFUSED)
        mine = (holder.incarnation, holder.job, holder.epoch)
        return [record for record in answers if (record.incarnation, record.job, record.epoch) == mine]

    def _noted(self, *events: Event) -> list[Record]:
        return [record for record in read_records(self.records) if record.event in events]


@dataclass(slots=True)
class _Wait:
    """Waits for conditions, never longer than the run may take, and never for processes that are gone."""

    cast: Cast
    deadline_ms: int
    each_time: Callable[[], None] = lambda: None

    def until(self, what: str, condition: Callable[[], _T | None]) -> _T:
        """The first true value of `condition`.

        Raises:
          DemoError: there was none in time, or a process ended that should not.
        """
        while not (value := condition()):
            if (ended := self.cast.ended()) is not None:
                raise DemoError(f"{ended} ended before {what}; {self.cast.log_end(ended)}")
            if monotonic_ms() > self.deadline_ms:
                raise DemoError(
                    f"after {DEADLINE_MS} ms still not: {what}; if this machine is busy, try again when it is not"
                )
            self.each_time()
            sleep_ms(POLL_MS)
        return value
