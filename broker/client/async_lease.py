"""The lease guard for asyncio: the twin of `Lease`; where the lease is lost, it cancels the task that runs the body."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from broker.client.errors import LeaseLost
from broker.client.guard import Guard, Wiring, call_back, legible
from broker.client.keeper_async import AsyncKeeper
from broker.client.reply import Reply
from broker.client.steps import drive_async


class AsyncLease(Guard[AsyncKeeper]):
    """Holds a job while its `async with` block runs.

        async with client.lease(queue="builds", wait_ms=30_000) as lease:
            await lease.complete(await build(lease.payload, fence=lease.epoch))

    As `Lease`. In addition the loss of the lease cancels the task that runs the block, and the block then raises
    LeaseLost. A cancellation from outside releases the lease and goes on.

    Raises (on entering):
      NotGranted: there is no lease to be had; `reply` says why.
      BrokerTimeout, BrokerUnavailable: as any operation.
    """

    def __init__(self, wiring: Wiring[AsyncKeeper]) -> None:
        super().__init__(wiring)
        self._loop: asyncio.AbstractEventLoop
        self._body: asyncio.Task[Any] | None = None
        self._cancelled_body = False
        self._cancels_before = 0
        self.lost = asyncio.Event()
        """Set once the lease is lost."""

    async def __aenter__(self) -> Self:
        self._check_new()
        self._loop = asyncio.get_running_loop()
        try:
            await drive_async(self._entering())
        except BaseException as error:
            await drive_async(self._backing_out(error))
            raise
        self._body = asyncio.current_task()
        self._cancels_before = 0 if self._body is None else self._body.cancelling()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        body, self._body = self._body, None  # a loss that is found from now on is raised; nothing is left to cancel
        if self._cancelled_body:
            try:
                self._take_back_cancellation(body, error)
            finally:
                await self._keeper.let_go(self)
        else:
            await drive_async(self._leaving(error))

    async def progress(self, progress: Any) -> None:
        """As `Lease.progress`."""
        await drive_async(self._progressing(progress))

    async def complete(self, result: Any = None) -> Reply:
        """As `Lease.complete`."""
        return await drive_async(self._ending(self._operations.complete, result=result))

    async def fail(self, error: str, *, result: Any = None, retryable: bool = True) -> Reply:
        """As `Lease.fail`."""
        fields = {"error": legible(error), "result": result, "retryable": retryable}
        return await drive_async(self._ending(self._operations.fail, **fields))

    async def release(self, reason: str | None = None) -> Reply:
        """As `Lease.release`."""
        return await drive_async(self._ending(self._operations.release, reason=reason))

    async def hand_over(self, to: str, reason: str | None = None) -> Reply:
        """As `Lease.hand_over`."""
        return await drive_async(self._ending(self._operations.hand_over, to=to, reason=reason))

    def _over(self, reason: str) -> None:
        """At once, or where a thread that works for the body found out, as soon as the loop gets to it."""
        if running_loop() is self._loop:
            super()._over(reason)
        else:
            self._loop.call_soon_threadsafe(super()._over, reason)

    def _lost(self, reason: str) -> None:  # noqa: ARG002  # the block raises it
        """Cancel the body, unless it is the body that found out."""
        self.lost.set()
        if self._body is not None and self._body is not asyncio.current_task():
            self._cancelled_body = True
            self._body.cancel()

    async def _pause(self, ms: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(ms / 1000):
                await self.lost.wait()

    def _report(self, callback: Callable[[], None]) -> None:
        call_back(callback, self.job_id)

    def _take_back_cancellation(self, body: asyncio.Task[Any] | None, error: BaseException | None) -> None:
        """Turn our own cancellation of the body into LeaseLost; one from outside goes on."""
        assert body is not None, "only a body that runs is cancelled"
        also_from_outside = body.uncancel() > self._cancels_before
        if also_from_outside or (error is not None and not isinstance(error, asyncio.CancelledError)):
            return
        raise LeaseLost(self.job_id, self.epoch, str(self._loss)) from error


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs this very code; None in a thread without one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
