"""The lease guard without its I/O: what is asked when, what an answer means, when the lease counts as lost.

`Lease` and `AsyncLease` add nothing but their way to wait.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from broker.answers import Retry, Word
from broker.client.call import NewId
from broker.client.errors import (
    BrokerTimeout,
    BrokerUnavailable,
    ClientClosed,
    ClientError,
    InvalidRequest,
    LeaseLost,
    NotGranted,
    RequestRefused,
)
from broker.client.held import Held
from broker.client.logger import Logger
from broker.client.reply import Reply
from broker.client.steps import Step, Steps
from broker.client.tenure import LOST, Tenure
from broker.clock import Steady
from broker.entropy import Entropy
from broker.failures import trace

if TYPE_CHECKING:
    from broker.client.factory_operations import FactoryOperations

log = Logger(__name__)

ERROR_CHARS_MAX = 4_000
"""How much of an exception's text is reported."""
ON_EXIT_MS = 10_000
"""How long the end of a block tries to tell the broker; a lease that nobody ends expires."""
ON_INTERRUPT_MS = 2_000
OVERDUE_RENEWALS_MAX = 3


class Keeping(Protocol):
    """What renews the leases of a client's guards and watches their deadlines."""

    def keep(self, guard: "Guard[Any]", /) -> None:
        """Renew it until it is dropped or lost."""

    def drop(self, guard: "Guard[Any]", /) -> None:
        """Renew it no more."""

    def let_go(self, guard: "Guard[Any]", /) -> Any:
        """Drop it, and wait until no renewal of it is on its way. To be awaited in the async client."""


K = TypeVar("K", bound=Keeping)


@dataclass(frozen=True, slots=True)
class Wiring(Generic[K]):
    """What a guard is made of."""

    operations: "FactoryOperations[Any]"
    keeper: K
    claim: Step | Reply
    """How to claim the job, or the grant of a claim that was made."""
    on_lost: Callable[[str], None] | None
    on_cancel: Callable[[], None] | None
    entropy: Entropy
    steady_ms: Steady


class Guard(Held, ABC, Generic[K]):
    """One lease from its claim to its end."""

    def __init__(self, wiring: Wiring[K]) -> None:
        self._operations, self._keeper = wiring.operations, wiring.keeper
        self._claim = wiring.claim
        self._on_lost, self._on_cancel = wiring.on_lost, wiring.on_cancel
        for name in ("on_lost", "on_cancel"):
            if iscoroutinefunction(getattr(wiring, name)):
                raise InvalidRequest(f"{name}: a plain function is called, and an `async` one would never run")
        self._entropy, self._steady_ms = wiring.entropy, wiring.steady_ms
        self._lock = threading.Lock()
        self._loss: str | None = None
        self._grant: Reply | None = None
        self._ended = False
        self._asked: dict[Callable[..., Any], str] = {}
        """Under which request id each way to end it was asked for and not answered."""

    @abstractmethod
    def _lost(self, reason: str) -> None:
        """The lease has just been lost: tell everybody who waits. Called once, from whoever found out."""

    @abstractmethod
    def _pause(self, ms: int) -> Any:
        """Wait, unless the lease is lost meanwhile."""

    @abstractmethod
    def _report(self, callback: Callable[[], None]) -> None:
        """Call back; whatever it does must not hinder those who keep leases."""

    @property
    def tenure(self) -> Tenure:
        """What is known of the lease."""
        return self._tenure

    def check(self) -> None:
        """Do nothing while the lease is held. Cheap; call it before every step that others will see.

        Raises:
          LeaseLost: it was lost or ended, or its deadline has passed without a good renewal.
        """
        if self._ended:
            raise LeaseLost(self.job_id, self.epoch, "ended")
        if self._tenure.over(self._steady_ms()):
            self.lose("deadline")
        if self._loss is not None:
            raise LeaseLost(self.job_id, self.epoch, self._loss)

    def renewed(self, answer: Reply | ClientError, *, jitter: float) -> None:
        """A renewal was answered, or was not. `jitter`, in [0, 1), spreads the next one over ±10 %."""
        tenure, now_ms = self._tenure, self._steady_ms()
        cancelled_before = self.cancel_requested
        match answer:
            case BrokerTimeout() | BrokerUnavailable():
                log.warning("renewal_failed", job=tenure.job_id, epoch=tenure.epoch, error=str(answer))
                tenure.renewal_failed(now_ms=now_ms)
            case ClientError():
                self.lose(type(answer).__name__)
            case Reply():
                try:  # of a broker of another version what makes no sense is asked for again, until the deadline
                    stands = tenure.renewed(answer, now_ms=now_ms, jitter=jitter)
                except (KeyError, TypeError, ValueError) as error:
                    log.warning("renewal_failed", job=tenure.job_id, epoch=tenure.epoch, error=repr(error))
                    tenure.renewal_failed(now_ms=now_ms)
                    stands = True
                if not stands:
                    self.lose(str(answer.reason or answer.answer))
                elif self.cancel_requested and not cancelled_before and self._on_cancel is not None:
                    self._report(self._on_cancel)

    def lose(self, reason: str) -> None:
        """The lease is over; report that once. An end of our own making is none."""
        with self._lock:
            if self._loss is not None or self._ended:
                return
            self._loss = reason
        self._over(reason)

    def _over(self, reason: str) -> None:
        """Renew it no more, and tell everybody."""
        self._keeper.drop(self)
        try:
            if self._on_lost is not None:  # before the block can end, which waits for what is reported
                self._report(partial(self._on_lost, reason))
        finally:
            self._lost(reason)
            log.warning("lease_lost", job=self.job_id, epoch=self.epoch, reason=reason)

    def _check_new(self) -> None:
        if self._grant is not None:
            raise RuntimeError(f"{self.job_id}: a guard is entered once; make another one for the next lease")

    def _entering(self) -> Steps[None]:
        grant: Reply = self._claim if isinstance(self._claim, Reply) else (yield self._claim)
        require_known(grant)
        if not grant.granted:
            raise NotGranted(grant)
        self._grant = grant
        self._tenure = Tenure(grant)
        for _ in range(OVERDUE_RENEWALS_MAX):
            # A claim that waited for work was sent too long ago to count a deadline from.
            if self._steady_ms() < self._tenure.renewal_due_ms:
                break
            yield from self._renewing()
        self.check()
        self._keeper.keep(self)

    def _backing_out(self, error: BaseException) -> Steps[None]:
        """End the lease, where there is one, as its block does not begin."""
        if self._grant is not None:
            if not hasattr(self, "_tenure"):
                self._tenure = Tenure(self._grant)
            yield from self._leaving(error)

    def _leaving(self, error: BaseException | None) -> Steps[None]:
        """End the lease as the block has ended. What hinders that must not hide the block's own error."""
        interrupted = error is not None and not isinstance(error, Exception)
        try:
            yield from self._parting(error, ON_INTERRUPT_MS if interrupted else ON_EXIT_MS)
        except BaseException as interrupt:
            if interrupted or isinstance(interrupt, Exception):
                raise
            try:  # once more, and not for long: a second interrupt ends this too
                yield from self._parting(error, ON_INTERRUPT_MS)
            except Exception as untold:
                interrupt.add_note(f"the broker could not be told: {untold}")
            raise
        finally:
            yield partial(self._keeper.let_go, self)

    def _parting(self, error: BaseException | None, within_ms: int) -> Steps[None]:
        if error is None and not self._ended:
            yield from self._ending(self._operations.release, within_ms=within_ms)
        elif error is not None and not (self._ended or self._loss or self._tenure.over(self._steady_ms())):
            try:
                if isinstance(error, Exception):
                    yield from self._ending(self._operations.fail, error=in_words(error), within_ms=within_ms)
                else:
                    reason = type(error).__name__
                    yield from self._ending(self._operations.release, reason=reason, within_ms=within_ms)
            except Exception as untold:
                error.add_note(f"the broker could not be told: {untold}")

    def _progressing(self, progress: Any) -> Steps[None]:
        self.check()
        reply = yield partial(self._operations.progress, self.job_id, **self._tenure.fence, progress=progress)
        self._judge(reply)

    def _renewing(self) -> Steps[None]:
        tenure = self._tenure
        answer: Reply | ClientError
        try:
            answer = yield partial(
                self._operations.renew, tenure.job_id, **tenure.fence, timeout_ms=tenure.renewal_timeout_ms()
            )
        except ClientError as error:
            answer = error
        self.renewed(answer, jitter=self._entropy.jitter())

    def _ending(self, ask: Callable[..., Any], *, within_ms: int | None = None, **fields: Any) -> Steps[Reply]:
        """Ask for the end of the lease, once no renewal is on its way: none runs behind what comes next."""
        if self._ended:
            raise RuntimeError(f"{self.job_id}: the lease was ended before")
        self.check()
        try:
            yield partial(self._keeper.let_go, self)
            self.check()
            reply = yield from self._asking(ask, fields, within_ms)
            self._judge(reply)
        except BrokerTimeout:
            self._ended = True
            raise
        except (LeaseLost, ClientClosed):
            raise
        except BaseException:  # not done, or not known: an interrupted block may go on, and ask once more
            self._keep_on()
            raise
        self._ended = True
        return reply

    def _keep_on(self) -> None:
        if self._loss is None and not self._ended:
            try:
                self._keeper.keep(self)
            except ClientClosed:  # meanwhile; what hindered the end is to be raised, not this
                self.lose(ClientClosed.__name__)

    def _asking(self, ask: Callable[..., Any], fields: Mapping[str, Any], within_ms: int | None) -> Steps[Reply]:
        """Ask; where the broker says "later", ask again while the lease lasts.

        What was interrupted is asked under the same request id the next time: it may have been done.
        """
        now_ms = self._steady_ms()
        left_ms = self._tenure.left_ms(now_ms)
        until_ms = now_ms + (left_ms if within_ms is None else min(left_ms, within_ms))
        while True:
            request_id = self._asked.get(ask) or NewId(self._entropy.token())
            self._asked[ask] = str(request_id)
            reply: Reply = yield partial(
                ask,
                self.job_id,
                **self._tenure.fence,
                **fields,
                request_id=request_id,
                timeout_ms=max(1, until_ms - self._steady_ms()),
            )
            self._asked.pop(ask, None)  # another call of the same may have had its answer before
            pause_ms = reply.retry_after_ms or 0
            if reply.retry is not Retry.LATER or self._steady_ms() + pause_ms >= until_ms:
                return reply
            yield partial(self._pause, pause_ms)

    def _judge(self, reply: Reply) -> None:
        require_known(reply)
        if reply.answer in LOST and reply.answer is not Word.INVALID:
            self.lose(str(reply.reason or reply.answer))
            raise LeaseLost(self.job_id, self.epoch, str(reply.reason or reply.answer))
        if not reply.good:
            raise RequestRefused(reply)


def require_known(reply: Reply) -> None:
    """Raises BrokerTimeout where the answer is that nobody knows: a refusal would say that nothing was done."""
    if reply.answer is Word.OUTCOME_UNKNOWN:
        why = f": {reply.body['detail']}" if "detail" in reply.body else ""
        raise BrokerTimeout(f"the outcome is unknown{why}", request_id=reply.request_id, reply=reply)


def in_words(error: Exception) -> str:
    """What is reported of an exception, whatever it is made of."""
    try:
        return legible(f"{type(error).__name__}: {error}")
    except Exception as unspeakable:
        return f"{type(error).__name__}, whose text can't be had: {type(unspeakable).__name__}"


def legible(text: str) -> str:
    """As much of a text as is reported. The name of a file may hold what is no text: it is told in escapes."""
    return text[:ERROR_CHARS_MAX].encode(errors="backslashreplace").decode()


def call_back(callback: Callable[[], None], job_id: str) -> None:
    """Call a holder's own function. What it raises is logged: it must not end what keeps the lease."""
    try:
        callback()
    except Exception:
        log.error("callback_failed", job=job_id, exception=trace())
