"""The lease guard for asyncio: the twin of `Lease`; where the lease is lost, it cancels the task that runs the body."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
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
from broker.client.lease import ERROR_CHARS_MAX, ON_EXIT_MS, ON_INTERRUPT_MS, OVERDUE_RENEWALS_MAX
from broker.client.notices import Notices
from broker.client.reply import Reply
from broker.client.tenure import LOST, Tenure
from broker.clock import Steady
from broker.entropy import Entropy

if TYPE_CHECKING:
    from broker.client.aio import AsyncLine

log = structlog.get_logger(__name__)


class AsyncLease(Held):
    """Holds a job while its `async with` block runs.

        async with client.lease(queue="builds", wait_ms=30_000) as lease:
            await lease.complete(await build(lease.payload, fence=lease.epoch))

    As `Lease`, with tasks for threads. In addition the loss of the lease cancels the task that runs the block, and
    the block then raises LeaseLost. A cancellation from outside releases the lease and goes on.

    Raises (on entering):
      NotGranted: there is no lease to be had; `reply` says why.
      BrokerTimeout, BrokerUnavailable: as any operation.
    """

    def __init__(
        self,
        claim: Callable[[], Awaitable[Reply]],
        own_line: "Callable[[], AsyncLine]",
        *,
        notices: Notices,
        on_lost: Callable[[str], None] | None,
        on_cancel: Callable[[], None] | None,
        entropy: Entropy,
        steady_ms: Steady,
    ) -> None:
        self._claim = claim
        self._own_line = own_line
        self._notices = notices
        self._on_lost = on_lost
        self._on_cancel = on_cancel
        self._entropy = entropy
        self._steady_ms = steady_ms
        self._stop = asyncio.Event()
        self._nudged = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._loss: str | None = None
        self._ended = False
        self._body: asyncio.Task[Any] | None = None
        self._cancelled_body = False
        self._cancels_before = 0
        self.lost = asyncio.Event()
        """Set once the lease is lost."""

    async def __aenter__(self) -> Self:
        grant = await self._claim()
        if not grant.granted:
            raise NotGranted(grant)
        self._tenure = Tenure(grant)
        self._line = self._own_line()
        try:
            for _ in range(OVERDUE_RENEWALS_MAX):
                # A claim that waited for work was sent too long ago to count a deadline from.
                if self._steady_ms() < self._tenure.renewal_due_ms:
                    break
                await self._renew()
            self.check()
            self._body = asyncio.current_task()
            self._cancels_before = 0 if self._body is None else self._body.cancelling()
            self._keep()
        except BaseException as error:
            await self._tell(error)
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._cancelled_body:
                self._take_back_cancellation(error)
            elif self._ended:
                return
            elif error is not None:
                await self._tell(error)
            else:
                await self._end(self._line.release, within_ms=ON_EXIT_MS)
        finally:
            await self._close()

    def check(self) -> None:
        """Do nothing while the lease is held. Cheap; call it before every step that others will see.

        Raises:
          LeaseLost: it was lost, or its deadline has passed without a good renewal.
        """
        if not self._ended and self._tenure.over(self._steady_ms()):
            self._lose("deadline")
        if self._loss is not None:
            raise LeaseLost(self.job_id, self.epoch, self._loss)

    async def progress(self, progress: Any) -> None:
        """Write progress (JSON, at most 4 KiB) to the run. It does not extend the lease.

        Raises:
          LeaseLost: nothing was written; somebody else holds the job, or it is over.
          RequestRefused: nothing was written now; the lease stands.
        """
        self.check()
        self._judge(await self._line.progress(self.job_id, **self._tenure.fence, progress=progress))

    async def complete(self, result: Any = None) -> Reply:
        """End the job as succeeded. `result`: JSON, at most 16 KiB. Tried again while the lease lasts.

        Raises:
          LeaseLost: the job was not completed by this holder.
          BrokerTimeout: it may have been completed; repeat `client.complete` with its request id to find out.
          InvalidRequest, RequestRefused: not completed; the lease stands and is renewed further.
        """
        return await self._end(self._line.complete, result=result)

    async def fail(self, error: str, *, result: Any = None, retryable: bool = True) -> Reply:
        """Report a failed try. Raises as `complete`."""
        return await self._end(self._line.fail, error=error[:ERROR_CHARS_MAX], result=result, retryable=retryable)

    async def release(self, reason: str | None = None) -> Reply:
        """Give the job back unharmed, or acknowledge that it is cancelled. Raises as `complete`."""
        return await self._end(self._line.release, reason=reason)

    async def hand_over(self, to: str, reason: str | None = None) -> Reply:
        """Give the job to factory `to`: for one ttl nobody else gets it. Raises as `complete`.

        RequestRefused: that factory takes no work; the lease stands.
        """
        return await self._end(self._line.hand_over, to=to, reason=reason)

    async def _end(self, ask: Callable[..., Awaitable[Reply]], *, within_ms: int | None = None, **fields: Any) -> Reply:
        if self._ended:
            raise RuntimeError(f"{self.job_id}: the lease was ended before")
        self.check()
        await self._stop_keeping()
        self.check()
        try:
            reply = await self._ask_until_over(ask, within_ms, fields)
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

    async def _ask_until_over(
        self, ask: Callable[..., Awaitable[Reply]], within_ms: int | None, fields: Mapping[str, Any]
    ) -> Reply:
        """Ask; where the broker says "later", ask again while the lease lasts."""
        until_ms = self._steady_ms() + self._tenure.left_ms(self._steady_ms())
        if within_ms is not None:
            until_ms = min(until_ms, self._steady_ms() + within_ms)
        while True:
            left_ms = max(1, until_ms - self._steady_ms())
            reply = await ask(self.job_id, **self._tenure.fence, **fields, timeout_ms=left_ms)
            pause_ms = reply.retry_after_ms or 0
            if reply.retry is not Retry.LATER or self._steady_ms() + pause_ms >= until_ms:
                return reply
            await asyncio.sleep(pause_ms / 1000)

    def _judge(self, reply: Reply) -> None:
        if reply.answer in LOST and reply.answer is not Word.INVALID:
            self._lose(str(reply.reason or reply.answer))
            raise LeaseLost(self.job_id, self.epoch, str(reply.reason or reply.answer))
        if not reply.good:
            raise RequestRefused(reply)

    async def _tell(self, error: BaseException) -> None:
        """Tell the broker how the block ended; what hinders that must not hide the error itself."""
        if self._loss is not None or self._tenure.over(self._steady_ms()):
            return
        try:
            if isinstance(error, Exception):
                text = f"{type(error).__name__}: {error}"[:ERROR_CHARS_MAX]
                await self._end(self._line.fail, error=text, within_ms=ON_EXIT_MS)
            else:
                await self._end(self._line.release, reason=type(error).__name__, within_ms=ON_INTERRUPT_MS)
        except ClientError as untold:
            error.add_note(f"the broker could not be told: {untold}")

    def _take_back_cancellation(self, error: BaseException | None) -> None:
        """Turn our own cancellation of the body into LeaseLost; one from outside goes on."""
        assert self._body is not None, "only a body that runs is cancelled"
        also_from_outside = self._body.uncancel() > self._cancels_before
        if also_from_outside or (error is not None and not isinstance(error, asyncio.CancelledError)):
            return
        raise LeaseLost(self.job_id, self.epoch, str(self._loss)) from error

    def _keep(self) -> None:
        """Start the two tasks. From here on a notice leads to a renewal at once."""
        self._stop.clear()
        self._nudged.clear()
        self._notices.watch(self.job_id, self.epoch, self._nudged.set)
        loops: dict[str, Coroutine[Any, Any, None]] = {"renew": self._renew_loop(), "deadline": self._watch()}
        self._tasks = [asyncio.create_task(loop, name=f"broker-{name}-{self.job_id}") for name, loop in loops.items()]

    async def _stop_keeping(self) -> None:
        """Wait for the two tasks to end: no renewal runs behind what comes next."""
        self._halt()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _close(self) -> None:
        try:
            await self._stop_keeping()
        finally:
            for task in self._tasks:
                task.cancel()
            await self._line.close()

    async def _renew_loop(self) -> None:
        while True:
            await _within(self._tenure.renewal_due_ms - self._steady_ms(), self._nudged)
            if self._stop.is_set():
                return
            self._nudged.clear()
            await self._renew()

    async def _watch(self) -> None:
        while not await _within(self._tenure.left_ms(self._steady_ms()), self._stop):
            if self._tenure.over(self._steady_ms()):
                self._lose("deadline")

    def _halt(self) -> None:
        self._notices.forget(self.job_id, self.epoch)
        self._stop.set()
        self._nudged.set()

    async def _renew(self) -> None:
        tenure = self._tenure
        cancelled_before = self.cancel_requested
        try:
            reply = await self._line.renew(tenure.job_id, **tenure.fence, timeout_ms=tenure.renewal_timeout_ms())
        except (BrokerTimeout, BrokerUnavailable) as error:
            log.warning("renewal_failed", job=tenure.job_id, epoch=tenure.epoch, error=str(error))
            tenure.renewal_failed(now_ms=self._steady_ms())
            return
        except ClientError as error:
            self._lose(type(error).__name__)
            return
        if not tenure.renewed(reply, now_ms=self._steady_ms(), jitter=self._entropy.jitter()):
            self._lose(str(reply.reason or reply.answer))
        elif self.cancel_requested and not cancelled_before and self._on_cancel is not None:
            self._report(self._on_cancel)

    def _lose(self, reason: str) -> None:
        """Report the loss, once, and cancel the body unless it is the body that found out."""
        if self._loss is not None:
            return
        self._loss = reason
        self._halt()
        self.lost.set()
        log.warning("lease_lost", job=self.job_id, epoch=self.epoch, reason=reason)
        if self._on_lost is not None:
            on_lost = self._on_lost
            self._report(lambda: on_lost(reason))
        if self._body is not None and self._body is not asyncio.current_task():
            self._cancelled_body = True
            self._body.cancel()

    def _report(self, callback: Callable[[], None]) -> None:
        """Call back; a failing callback must not end the task that keeps the lease."""
        try:
            callback()
        except Exception:
            log.exception("callback_failed", job=self.job_id)


async def _within(ms: int, event: asyncio.Event) -> bool:
    """Wait for `event`, so many milliseconds at most. Whether it is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0, ms) / 1000):
            await event.wait()
    return event.is_set()
