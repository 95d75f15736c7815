"""The main loop of an agent: claims while there is room, hears signals and what became of its jobs, ends in order."""

import errno
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from types import FrameType
from typing import TypeAlias

from broker.agent.claiming import WAIT_MS_MAX, Claiming, Terms
from broker.agent.pauses import PAUSE_MS, pause_ms
from broker.agent.running import Running
from broker.answers import Reason, Retry, Word
from broker.client import Client, ClientError, Reply
from broker.clock import monotonic_ms
from broker.exec import Command, ExecResult
from broker.exec.events import HEAR_S, heard_signals

LAST_CLAIM_MS = 10_000
"""How long a stopped agent waits for the answer to its last claim, to give back what it got. The broker sends it at
once, unless a worker hangs or has died with it: within this time another one takes over."""
HURRIED_MS = 1_000
"""The same after a second signal."""
UNABLE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENOEXEC})
"""Errors of a command's start that the next job's would meet too. Others, such as a lack of memory, may pass."""
REPLACED = "another start of this factory has registered, or it was removed"


class End(StrEnum):
    """Why an agent ended."""

    STOPPED = "stopped"
    MAX_JOBS = "max_jobs"
    IDLE = "idle"
    REFUSED = "refused"
    """It gets no work any more: another start of its factory has registered, or its requests are not taken."""
    UNABLE = "unable"
    """Its command can't be run on this machine."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When an agent has had enough. None: never."""

    concurrency: int = 1
    max_jobs: int | None = None
    idle_exit_ms: int | None = None
    stop_after_ms: int | None = None
    """How long the commands have after the first signal, before they are stopped as by a second one."""


@dataclass(frozen=True, slots=True)
class Told:
    """This process was told to stop."""

    signal: signal.Signals


@dataclass(frozen=True, slots=True)
class Answered:
    """A claim came back."""

    answer: Reply | ClientError


Event: TypeAlias = Told | Answered | ExecResult


class Agent:
    """A registered factory at work. To be run from the main thread, once.

    The first stop signal: no new work; what runs is finished. The second: the commands are stopped and their jobs
    released; where none runs, the answer to a claim on its way is not waited for much longer. An operator's drain is
    obeyed by asking again later, a cancel by stopping that job's command.
    """

    def __init__(
        self,
        client: Client,
        command: Command,
        terms: Terms,
        limits: Limits,
        *,
        ended: Callable[[ExecResult], None],
        tell: Callable[[str], None],
    ) -> None:
        self._client, self._limits = client, limits
        self._told_ended, self._tell = ended, tell
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._running = Running(client, command, self._events.put)
        self._claiming = Claiming(client, terms, lambda answer: self._events.put(Answered(answer)))
        self._asked_ms: int | None = None
        """When the claim that is on its way was sent."""
        self._wait_ms = 0
        self._has_asked = False
        self._end: End | None = None
        self._stop_at_ms: int | None = None
        self._idle_since_ms = monotonic_ms()
        self._pause_until_ms = 0
        self._failures = 0
        self._failed_starts = 0
        self._drained = False
        self.unfinished = 0
        """Jobs granted whose end was not told yet."""
        self.started = 0

    def run(self) -> End:
        """Work until there is an end to it, and nothing runs any more."""
        with self._signals():
            while not self._over():
                self._claim_if_there_is_room()
                try:
                    event = self._events.get(timeout=self._patience_s())
                except queue.Empty:
                    continue
                match event:
                    case Told(number):
                        self._stop(number)
                    case Answered(answer):
                        self._take(answer)
                    case ExecResult():
                        self.unfinished -= 1
                        self._idle_since_ms = monotonic_ms()
                        self._told_ended(event)
                        self._heed_start(event.not_started)
        assert self._end is not None, "an end is what ends the loop"
        return self._end

    def _over(self) -> bool:
        """Whether nothing is left to wait for; decides on the end where a limit is reached."""
        limits, now_ms = self._limits, monotonic_ms()
        if self._end is None:
            if limits.max_jobs is not None and self.started >= limits.max_jobs:
                self._end = End.MAX_JOBS
            elif self._idle_for(now_ms) and self._asked_ms is None:
                self._end = End.IDLE
        if self._stop_at_ms is not None and now_ms >= self._stop_at_ms and self.unfinished:
            self._stop_at_ms = None
            self._running.stop(signal.SIGTERM)
        if self._end is None or self.unfinished:
            return False
        return self._asked_ms is None or now_ms >= self._asked_ms + self._wait_ms + LAST_CLAIM_MS

    def _idle_for(self, now_ms: int) -> bool:
        limit_ms = self._limits.idle_exit_ms
        if limit_ms is None or self.unfinished or not self._has_asked:
            return False
        return now_ms >= self._idle_since_ms + limit_ms

    def _claim_if_there_is_room(self) -> None:
        now_ms, limits = monotonic_ms(), self._limits
        full = self.unfinished >= limits.concurrency
        enough = limits.max_jobs is not None and self.started >= limits.max_jobs
        if self._end or full or enough or self._asked_ms is not None or now_ms < self._pause_until_ms:
            return
        wait_ms = WAIT_MS_MAX
        if limits.idle_exit_ms is not None:
            # While jobs run too: the last may end meanwhile, and then the claim must not outlast the patience.
            left_ms = limits.idle_exit_ms if self.unfinished else self._idle_since_ms + limits.idle_exit_ms - now_ms
            wait_ms = max(0, min(wait_ms, left_ms))
        self._asked_ms, self._wait_ms, self._has_asked = now_ms, wait_ms, True
        self._claiming.begin(wait_ms)

    def _patience_s(self) -> float:
        """How long nothing need be looked at unless an event comes; never so long that a signal could be missed."""
        limits, now_ms = self._limits, monotonic_ms()
        moments = [self._stop_at_ms]
        if self._end is None:
            moments.append(self._pause_until_ms if self._pause_until_ms > now_ms else None)
            if limits.idle_exit_ms is not None and not self.unfinished and self._asked_ms is None:
                moments.append(self._idle_since_ms + limits.idle_exit_ms)
        elif self._asked_ms is not None and not self.unfinished:
            moments.append(self._asked_ms + self._wait_ms + LAST_CLAIM_MS)
        known = [moment for moment in moments if moment is not None]
        return min(HEAR_S, max(0, min(known) - now_ms) / 1000) if known else HEAR_S

    def _take(self, answer: Reply | ClientError) -> None:
        """What a claim led to."""
        asked_ms, self._asked_ms = self._asked_ms, None
        if isinstance(answer, ClientError) or answer.retry is Retry.SAME_ID:
            self._failures += 1
            lasts_ms = pause_ms(self._failures)
            self._pause_until_ms = monotonic_ms() + lasts_ms
            why = answer if isinstance(answer, ClientError) else answer.summary
            self._tell(f"no answer: {why}" + (f"; asking again in {lasts_ms // 1000} s" if self._end is None else ""))
            return
        self._failures = 0
        if answer.granted:
            self._begin(answer)
        elif answer.retry is Retry.FINAL and self._end is None:
            self._end = End.REFUSED
            replaced = answer.reason is Reason.RESTARTED
            why = REPLACED if replaced else f"the broker answered {answer.summary}"
            self._tell(f"no more work: {why}")
        else:
            self._pause(answer, asked_ms or 0)
        self._tell_drain(answer)

    def _begin(self, grant: Reply) -> None:
        if self._end is not None:  # it was on its way as the agent was told to stop
            self._give_back(grant)
            return
        self.started += 1
        self.unfinished += 1
        self._tell(f"job {grant.body['job_id']}, epoch {grant.body['epoch']}: started")
        self._running.start(grant)

    def _heed_start(self, error: OSError | None) -> None:
        """Where the command can't be run here, leave the jobs to others instead of claiming them again and again."""
        if error is None:
            self._failed_starts = 0
        elif error.errno in UNABLE:
            if self._end in (None, End.MAX_JOBS):
                self._end = End.UNABLE
                self._tell("no more work: this machine can't run the command")
                self._have_claim_answered("the command can't be run")
        elif self._end is None:
            self._failed_starts += 1
            lasts_ms = pause_ms(self._failed_starts)
            self._pause_until_ms = monotonic_ms() + lasts_ms
            self._tell(f"the command did not start; asking again in {lasts_ms // 1000} s")

    def _give_back(self, grant: Reply) -> None:
        job_id, epoch = grant.body["job_id"], grant.body["epoch"]
        try:
            self._client.release(job_id, epoch=epoch, token=grant.body["token"], reason="stopped")
        except ClientError as error:  # its lease expires; what runs still is not to be given up for that
            self._tell(f"job {job_id}, epoch {epoch}: could not be given back: {error}")

    def _pause(self, answer: Reply, asked_ms: int) -> None:
        """Nothing to do now. A claim that has waited its time may be followed by the next at once."""
        now_ms = monotonic_ms()
        if answer.answer is Word.NONE_AVAILABLE and now_ms >= asked_ms + self._wait_ms and self._wait_ms > 0:
            return
        self._pause_until_ms = now_ms + (answer.retry_after_ms or PAUSE_MS)

    def _tell_drain(self, answer: Reply) -> None:
        drained = answer.answer is Word.DRAINING
        if self._end is None and drained != self._drained:
            self._drained = drained
            why = answer.body.get("why")
            self._tell(
                f"draining{f': {why}' if why else ''}; no new work until it ends" if drained else "gets work again"
            )

    def _stop(self, number: signal.Signals) -> None:
        if self._end not in (None, End.MAX_JOBS, End.UNABLE):
            self._running.stop(number)
            if self._asked_ms is not None:
                self._asked_ms, self._wait_ms = monotonic_ms() - LAST_CLAIM_MS + HURRIED_MS, 0
            return
        self._end = End.STOPPED
        self._tell(f"{number.name}: no new work; {self.unfinished} running. A second signal stops them")
        if self._limits.stop_after_ms is not None:
            self._stop_at_ms = monotonic_ms() + self._limits.stop_after_ms
        self._have_claim_answered(f"stopped by {number.name}")

    def _have_claim_answered(self, why: str) -> None:
        """The answer to a claim that waits: `draining`, at once. Only this start drains, so the next one works."""
        if self._asked_ms is not None:
            self._asked_ms, self._wait_ms = monotonic_ms(), 0
            threading.Thread(target=self._drain, args=(why,), name="broker-drain", daemon=True).start()

    def _drain(self, why: str) -> None:
        try:
            self._client.drain(
                self._client.factory_id,
                reason=why,
                incarnation=self._client.incarnation,
                timeout_ms=LAST_CLAIM_MS,
            )
        except ClientError as error:
            self._tell(f"the broker could not be told of the stop: {error}")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def heard(number: int, _frame: FrameType | None) -> None:
            self._events.put(Told(signal.Signals(number)))  # a SimpleQueue may be put into from a handler

        before = {number: signal.signal(number, heard) for number in heard_signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
