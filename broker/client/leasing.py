"""What both clients build out of the operations: guards, and many submissions in one go."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from broker.answers import Retry, Word
from broker.client.call import Address, BrokerTime, Call
from broker.client.errors import BrokerTimeout, BrokerUnavailable, ClientClosed, InvalidRequest
from broker.client.factory_operations import FactoryOperations
from broker.client.reply import Reply
from broker.client.steps import Step, Steps
from broker.client.submissions import Submission, name_of, of_many, one_of_many
from broker.client.wording import check_request_id
from broker.entropy import Entropy
from broker.messages import Envelope, Submit

if TYPE_CHECKING:  # a client that records nothing does not load it
    from broker.history import Recorder

TOGETHER_MAX = 512
"""Submissions on their way at once; well below what a reply channel holds."""

T_co = TypeVar("T_co", covariant=True)
G = TypeVar("G")


class Carrier(Protocol):
    """An exchange, of threads or of asyncio."""

    address: Address
    broker_time: BrokerTime
    entropy: Entropy
    history: "Recorder | None"

    def carry_out(self, calls: Sequence[Call], sender: Any, /) -> Any: ...


class Calling(FactoryOperations[T_co]):
    """Puts calls together; how they are carried out is the client's own."""

    _exchange: Carrier
    _sender: Any
    _timeout_ms: int

    @abstractmethod
    def _now_ms(self) -> int:
        """This host's monotonic clock."""

    def _broker_ms(self) -> int | None:
        return self._exchange.broker_time.at(self._now_ms())

    def _call(
        self, kind: type[Envelope], body: Mapping[str, Any], *, request_id: str | None, timeout_ms: int | None
    ) -> Call:
        return Call(
            kind,
            body,
            self._exchange.address,
            request_id=request_id,
            timeout_ms=self._timeout_ms if timeout_ms is None else timeout_ms,
            now_ms=self._now_ms(),
            entropy=self._exchange.entropy,
            history=self._exchange.history,
        )

    def _submitting(
        self, bodies: Sequence[Submission], request_ids: Sequence[str] | None, timeout_ms: int | None
    ) -> Steps[list[Reply]]:
        for request_id in request_ids or ():
            check_request_id(request_id)
        if request_ids is not None and len(set(request_ids)) != len(request_ids):
            raise InvalidRequest("request_ids: each job has one of its own, and one of these stands twice")
        if request_ids is not None and len(request_ids) != len(bodies):
            raise InvalidRequest(f"request_ids: {len(request_ids)} of them for {len(bodies)} jobs")
        ids = [None] * len(bodies) if request_ids is None else request_ids
        calls = [  # all of them before the first is sent: one that is invalid must not be found behind others
            self._one_of_many(index, body, request_id, timeout_ms)
            for index, (body, request_id) in enumerate(zip(bodies, ids, strict=True))
        ]
        for start in range(0, len(calls), TOGETHER_MAX):
            together = calls[start : start + TOGETHER_MAX]
            for call in together:
                call.begin(self._now_ms())
            try:
                yield partial(self._exchange.carry_out, together, self._sender)
            except (BrokerUnavailable, BrokerTimeout, ClientClosed):
                if not any(call.out for call in calls):
                    raise
                break
            if not any(call.out for call in together):
                break
        sent = any(call.out for call in calls)
        return [_answer_or_unknown(call, name_of(body), sent=sent) for call, body in zip(calls, bodies, strict=True)]

    def _one_of_many(self, index: int, given: Submission, request_id: str | None, timeout_ms: int | None) -> Call:
        body = one_of_many(index, given)
        try:
            return self._call(Submit, body, request_id=request_id, timeout_ms=timeout_ms)
        except InvalidRequest as error:
            raise of_many(index, str(error)) from None


class Leasing(Calling[T_co], Generic[T_co, G]):
    """Guards, for a client whose guards are `G`."""

    @abstractmethod
    def _guard(
        self,
        claim: Step | Reply,
        on_lost: Callable[[str], None] | None,
        on_cancel: Callable[[], None] | None,
    ) -> G: ...

    def lease(
        self,
        job_id: str | None = None,
        *,
        queue: str = "default",
        offers: Sequence[str] = (),
        wait_ms: int = 0,
        ttl_ms: int | None = None,
        expected_etag: str | None = None,
        on_lost: Callable[[str], None] | None = None,
        on_cancel: Callable[[], None] | None = None,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> G:
        """A context manager that claims a job, renews the lease while its body runs, and ends it.

        `on_lost(reason)` is called once if the lease is lost, `on_cancel()` once if the job is to be cancelled: in
        `Client` on another thread than the body's, or in its `check()`; in `AsyncClient` on the loop's. A loss cancels
        the task that runs an async body, after it is reported; a cancel stops no body. Entering raises NotGranted where
        there is no lease to be had.
        """
        claim = partial(
            self.claim,
            job_id,
            queue=queue,
            offers=offers,
            wait_ms=wait_ms,
            ttl_ms=ttl_ms,
            expected_etag=expected_etag,
            request_id=request_id,
            timeout_ms=timeout_ms,
        )
        return self._guard(claim, on_lost, on_cancel)

    def keep(
        self,
        grant: Reply,
        *,
        on_lost: Callable[[str], None] | None = None,
        on_cancel: Callable[[], None] | None = None,
    ) -> G:
        """The same guard for a lease that `claim` of this client was granted."""
        return self._guard(grant, on_lost, on_cancel)


def _answer_or_unknown(call: Call, job_id: str | None, *, sent: bool) -> Reply:
    """The answer; a reply made here where there is none, so that the others of its group are not lost with it.

    It names the job that was to be: `job_id`, or what the broker makes of the request id.
    `sent`: others were, or may have been: that this one was not is no reason to say so of all.
    """
    try:
        return call.answer()
    except (BrokerTimeout, BrokerUnavailable) as error:
        if not sent and not call.repeats:
            raise
        body = {"job_id": job_id or f"j-{call.request_id}", "detail": str(error).partition("; ")[0]}
        return Reply(call.request_id, Word.OUTCOME_UNKNOWN, None, Retry.SAME_ID, 0, body, None, call.first_sent_ms)
