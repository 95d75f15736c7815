"""The lease guard: holds one job while a block runs, renews behind its back, and ends the lease with the block."""

import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import structlog

from broker.answers import Retry, Word
from broker.client.errors import (
    BrokerTimeout,
    BrokerUnavailable,
    ClientError,
    InvalidRequest,
    LeaseLost,
    NotGranted,
    RequestRefused,
)
from broker.client.held import Held
from broker.client.notices import Notices
from broker.client.reply import Reply
from broker.client.tenure import LOST, Tenure
from broker.clock import monotonic_ms
from broker.entropy import Entropy

if TYPE_CHECKING:
    from broker.client.sync import Line

log = structlog.get_logger(__name__)

ERROR_CHARS_MAX = 4_000
"""How much of an exception's text is reported."""
ON_EXIT_MS = 10_000
"""How long the end of a block tries to tell the broker; a lease that nobody ends expires."""
ON_INTERRUPT_MS = 2_000
OVERDUE_RENEWALS_MAX = 3


class Lease(Held):
    """Holds a job while its `with` block runs.

        with client.lease(queue="builds", wait_ms=30_000) as lease:
            lease.complete(build(lease.payload, fence=lease.epoch))

    Two threads keep it: one renews, over a connection of its own, one watches the holder's deadline and reports
    the loss even where Redis is gone. The block ends the lease: `complete` where it calls that, `fail` on an
    exception, `release` on an interrupt and where it just ends. Neither thread outlives the block.

    Raises (on entering):
      NotGranted: there is no lease to be had; `reply` says why.
      BrokerTimeout, BrokerUnavailable: as any operation.
    """

    def __init__(
        self,
        claim: Callable[[], Reply],
        own_line: "Callable[[], Line]",
        *,
        notices: Notices,
        on_lost: Callable[[str], None] | None,
        on_cancel: Callable[[], None] | None,
        entropy: Entropy,
    ) -> None:
        self._claim = claim
        self._own_line = own_line
        self._notices = notices
        self._on_lost = on_lost
        self._on_cancel = on_cancel
        self._entropy = entropy
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._nudged = threading.Event()
        self._threads: list[threading.Thread] = []
        self._loss: str | None = None
        self._ended = False
        self.lost = threading.Event()
        """Set once the lease is lost."""

    def __enter__(self) -> Self:
        grant = self._claim()
        if not grant.granted:
            raise NotGranted(grant)
        self._tenure = Tenure(grant)
        self._line = self._own_line()
        try:
            for _ in range(OVERDUE_RENEWALS_MAX):
                # A claim that waited for work was sent too long ago to count a deadline from.
                if monotonic_ms() < self._tenure.renewal_due_ms:
                    break
                self._renew()
            self.check()
            self._keep()
        except BaseException as error:
            self._tell(error)
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._ended:
                return
            if error is not None:
                self._tell(error)
                return
            self._end(self._line.release, within_ms=ON_EXIT_MS)
        finally:
            self._close()

    def check(self) -> None:
        """Do nothing while the lease is held. Cheap; call it before every step that others will see.

        Raises:
          LeaseLost: it was lost, or its deadline has passed without a good renewal.
        """
        if not self._ended and self._tenure.over(monotonic_ms()):
            self._lose("deadline")
        if self._loss is not None:
            raise LeaseLost(self.job_id, self.epoch, self._loss)

    def progress(self, progress: Any) -> None:
        """Write progress (JSON, at most 4 KiB) to the run. It does not extend the lease.

        Raises:
          LeaseLost: nothing was written; somebody else holds the job, or it is over.
          RequestRefused: nothing was written now; the lease stands.
        """
        self.check()
        self._judge(self._line.progress(self.job_id, **self._tenure.fence, progress=progress))

    def complete(self, result: Any = None) -> Reply:
        """End the job as succeeded. `result`: JSON, at most 16 KiB. Tried again while the lease lasts.

        Raises:
          LeaseLost: the job was not completed by this holder.
          BrokerTimeout: it may have been completed; repeat `client.complete` with its request id to find out.
          InvalidRequest, RequestRefused: not completed; the lease stands and is renewed further.
        """
        return self._end(self._line.complete, result=result)

    def fail(self, error: str, *, result: Any = None, retryable: bool = True) -> Reply:
        """Report a failed try. Raises as `complete`."""
        return self._end(self._line.fail, error=error[:ERROR_CHARS_MAX], result=result, retryable=retryable)

    def release(self, reason: str | None = None) -> Reply:
        """Give the job back unharmed, or acknowledge that it is cancelled. Raises as `complete`."""
        return self._end(self._line.release, reason=reason)

    def hand_over(self, to: str, reason: str | None = None) -> Reply:
        """Give the job to factory `to`: for one ttl nobody else gets it. Raises as `complete`.

        RequestRefused: that factory takes no work; the lease stands.
        """
        return self._end(self._line.hand_over, to=to, reason=reason)

    def _end(self, ask: Callable[..., Reply], *, within_ms: int | None = None, **fields: Any) -> Reply:
        if self._ended:
            raise RuntimeError(f"{self.job_id}: the lease was ended before")
        self.check()
        self._stop_keeping()
        self.check()
        try:
            reply = self._ask_until_over(ask, within_ms, fields)
            if reply.answer is Word.OUTCOME_UNKNOWN:
                raise BrokerTimeout("the outcome is unknown", request_id=reply.request_id)
            self._judge(reply)
        except BrokerTimeout:
            self._ended = True
            raise
        except (InvalidRequest, BrokerUnavailable, RequestRefused):
            self._keep()
            raise
        self._ended = True
        return reply

    def _ask_until_over(self, ask: Callable[..., Reply], within_ms: int | None, fields: Mapping[str, Any]) -> Reply:
        """Ask; where the broker says "later", ask again while the lease lasts."""
        left_ms = self._tenure.left_ms(monotonic_ms())
        until_ms = monotonic_ms() + (left_ms if within_ms is None else min(left_ms, within_ms))
        while True:
            left_ms = max(1, until_ms - monotonic_ms())
            reply = ask(self.job_id, **self._tenure.fence, **fields, timeout_ms=left_ms)
            pause_ms = reply.retry_after_ms or 0
            if reply.retry is not Retry.LATER or monotonic_ms() + pause_ms >= until_ms:
                return reply
            self.lost.wait(pause_ms / 1000)

    def _judge(self, reply: Reply) -> None:
        if reply.answer in LOST and reply.answer is not Word.INVALID:
            self._lose(str(reply.reason or reply.answer))
            raise LeaseLost(self.job_id, self.epoch, str(reply.reason or reply.answer))
        if not reply.good:
            raise RequestRefused(reply)

    def _tell(self, error: BaseException) -> None:
        """Tell the broker how the block ended; what hinders that must not hide the error itself."""
        if self._loss is not None or self._tenure.over(monotonic_ms()):
            return
        try:
            if isinstance(error, Exception):
                text = f"{type(error).__name__}: {error}"[:ERROR_CHARS_MAX]
                self._end(self._line.fail, error=text, within_ms=ON_EXIT_MS)
            else:
                self._end(self._line.release, reason=type(error).__name__, within_ms=ON_INTERRUPT_MS)
        except ClientError as untold:
            error.add_note(f"the broker could not be told: {untold}")

    def _keep(self) -> None:
        """Start the two threads. From here on a notice leads to a renewal at once."""
        self._stop.clear()
        self._nudged.clear()
        self._notices.watch(self.job_id, self.epoch, self._nudged.set)
        self._threads = [
            threading.Thread(target=target, name=f"broker-{name}-{self.job_id}", daemon=True)
            for name, target in (("renew", self._renew_loop), ("deadline", self._watch))
        ]
        for thread in self._threads:
            thread.start()

    def _stop_keeping(self) -> None:
        """Join the two threads: no renewal runs behind what comes next."""
        self._halt()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _halt(self) -> None:
        self._notices.forget(self.job_id, self.epoch)
        self._stop.set()
        self._nudged.set()

    def _close(self) -> None:
        self._stop_keeping()
        self._line.close()

    def _renew_loop(self) -> None:
        while True:
            self._nudged.wait(max(0, self._tenure.renewal_due_ms - monotonic_ms()) / 1000)
            if self._stop.is_set():
                return
            self._nudged.clear()
            self._renew()

    def _watch(self) -> None:
        while not self._stop.wait(self._tenure.left_ms(monotonic_ms()) / 1000):
            if self._tenure.over(monotonic_ms()):
                self._lose("deadline")

    def _renew(self) -> None:
        tenure = self._tenure
        cancelled_before = self.cancel_requested
        try:
            reply = self._line.renew(tenure.job_id, **tenure.fence, timeout_ms=tenure.renewal_timeout_ms())
        except (BrokerTimeout, BrokerUnavailable) as error:
            log.warning("renewal_failed", job=tenure.job_id, epoch=tenure.epoch, error=str(error))
            tenure.renewal_failed(now_ms=monotonic_ms())
            return
        except ClientError as error:
            self._lose(type(error).__name__)
            return
        if not tenure.renewed(reply, now_ms=monotonic_ms(), jitter=self._entropy.jitter()):
            self._lose(str(reply.reason or reply.answer))
        elif self.cancel_requested and not cancelled_before and self._on_cancel is not None:
            self._report(self._on_cancel)

    def _lose(self, reason: str) -> None:
        """Report the loss, once."""
        with self._lock:
            if self._loss is not None:
                return
            self._loss = reason
        self._halt()
        self.lost.set()
        log.warning("lease_lost", job=self.job_id, epoch=self.epoch, reason=reason)
        if self._on_lost is not None:
            on_lost = self._on_lost
            self._report(lambda: on_lost(reason))

    def _report(self, callback: Callable[[], None]) -> None:
        """Call back; a failing callback must not end the thread that keeps the lease."""
        try:
            callback()
        except Exception:
            log.exception("callback_failed", job=self.job_id)
