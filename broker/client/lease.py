"""The lease guard: holds one job while a block runs, renews behind its back, and ends the lease with the block."""

import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Self

from broker.client.guard import Guard, Wiring, call_back, legible
from broker.client.keeper import Keeper
from broker.client.reply import Reply
from broker.client.steps import drive


class Lease(Guard[Keeper]):
    """Holds a job while its `with` block runs.

        with client.lease(queue="builds", wait_ms=30_000) as lease:
            lease.complete(build(lease.payload, fence=lease.epoch))

    The client's keeper renews it together with the client's other leases, and watches its deadline apart from that:
    the loss is reported even where Redis is gone. The block ends the lease: `complete` where it calls that, `fail` on
    an exception, `release` on an interrupt and where it just ends. No renewal is on its way behind that.

    Raises (on entering):
      NotGranted: there is no lease to be had; `reply` says why.
      BrokerTimeout, BrokerUnavailable: as any operation.
    """

    def __init__(self, wiring: Wiring[Keeper]) -> None:
        super().__init__(wiring)
        self._reports: list[threading.Thread] = []
        self.lost = threading.Event()
        """Set once the lease is lost."""

    def __enter__(self) -> Self:
        self._check_new()
        try:
            drive(self._entering())
        except BaseException as error:  # also an interrupt as it has just been entered: nobody else would end it
            drive(self._backing_out(error))
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            drive(self._leaving(error))
        finally:
            for report in self._reports:
                if report is not threading.current_thread():
                    report.join()

    def progress(self, progress: Any) -> None:
        """Write progress (JSON, at most 4 KiB) to the run. It does not extend the lease.

        Raises:
          LeaseLost: nothing was written; somebody else holds the job, or it is over.
          RequestRefused: nothing was written now; the lease stands.
        """
        drive(self._progressing(progress))

    def complete(self, result: Any = None) -> Reply:
        """End the job as succeeded. `result`: JSON, at most 16 KiB. Tried again while the lease lasts.

        Raises:
          LeaseLost: the job was not completed by this holder.
          BrokerTimeout: it may have been completed; repeat `client.complete` with its request id to find out.
          InvalidRequest, RequestRefused: not completed; the lease stands and is renewed further.
        """
        return drive(self._ending(self._operations.complete, result=result))

    def fail(self, error: str, *, result: Any = None, retryable: bool = True) -> Reply:
        """Report a failed try. Raises as `complete`."""
        fields = {"error": legible(error), "result": result, "retryable": retryable}
        return drive(self._ending(self._operations.fail, **fields))

    def release(self, reason: str | None = None) -> Reply:
        """Give the job back unharmed, or acknowledge that it is cancelled. Raises as `complete`."""
        return drive(self._ending(self._operations.release, reason=reason))

    def hand_over(self, to: str, reason: str | None = None) -> Reply:
        """Give the job to factory `to`: for the broker's ttl nobody else gets it. Raises as `complete`.

        RequestRefused: that factory takes no work; the lease stands.
        """
        return drive(self._ending(self._operations.hand_over, to=to, reason=reason))

    def _lost(self, reason: str) -> None:  # noqa: ARG002  # threads can't be cancelled: they look or wait
        self.lost.set()

    def _pause(self, ms: int) -> None:
        self.lost.wait(ms / 1000)

    def _report(self, callback: Callable[[], None]) -> None:
        report = partial(call_back, callback, self.job_id)
        if not self._keeper.is_running_me():
            report()
            return
        thread = threading.Thread(target=report, name=f"broker-report-{self.job_id}", daemon=True)
        thread.start()
        self._reports.append(thread)
