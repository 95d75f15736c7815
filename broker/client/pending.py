"""Which waiting caller a reply belongs to, and which grants nobody waits for any more."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import structlog
from msgspec.structs import replace

from broker.client.call import BrokerTime, Call
from broker.client.notices import Notices
from broker.client.reply import Reply, parse_reply

log = structlog.get_logger(__name__)

REMEMBERED_MAX = 4_096
"""Claims whose outcome is remembered to recognise a second grant; as many as a reply channel holds."""


class Waiter(Protocol):
    """A future, of threads or of asyncio. It wakes its caller; what there is to know is in the call."""

    def done(self) -> bool: ...
    def set_result(self, result: None, /) -> None: ...


W = TypeVar("W", bound=Waiter)


@dataclass(slots=True)
class _Waiting(Generic[W]):
    call: Call
    future: W


class Pending(Generic[W]):
    """Requests without an answer, by request id. Safe under threads; the futures are completed outside the lock."""

    def __init__(
        self, broker_time: BrokerTime, now_ms: Callable[[], int], *, read: Callable[[bytes], Reply] = parse_reply
    ) -> None:
        self.notices = Notices()
        self._read = read
        self._broker_time = broker_time
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._waiting: dict[str, list[_Waiting[W]]] = {}
        self._kept: OrderedDict[str, frozenset[tuple[str, int]]] = OrderedDict()

    def expect(self, call: Call, future: W) -> None:
        """Complete `future` once `call` has its next reply. Several callers may wait for one request id.

        A further future for the same call takes the place of the one before.
        """
        with self._lock:
            others = self._waiting.setdefault(call.request_id, [])
            for waiting in others:
                if waiting.call is call:
                    waiting.future = future
                    return
            others.append(_Waiting(call, future))

    def forget(self, call: Call, *, abandoned: bool) -> None:
        """Nobody waits for `call` any more. `abandoned`: nobody will repeat it, so a late grant is given back."""
        with self._lock:
            others = [waiting for waiting in self._waiting.pop(call.request_id, []) if waiting.call is not call]
            if others:
                self._waiting[call.request_id] = others
            elif abandoned and call.is_claim:
                self._keep(call.request_id, frozenset())

    def close(self) -> list[W]:
        """Forget everything. Returns the futures nobody will complete any more."""
        with self._lock:
            waiting = [each.future for others in self._waiting.values() for each in others]
            self._waiting.clear()
        return [future for future in waiting if not future.done()]

    def deliver(self, text: bytes) -> Sequence[Reply]:
        """Hand a reply to whoever waits for it. Returns grants that nobody wants: to be released at once."""
        try:
            reply = self._read(text)
        except ValueError as error:
            if not self.notices.deliver(text):
                log.warning("reply_not_understood", error=str(error))
            return ()
        with self._lock:
            waiting = self._waiting.pop(reply.request_id, [])
            if not waiting:
                return self._surplus(reply)
            if any(each.call.is_of_an_earlier_copy(reply, now_ms=self._now_ms()) for each in waiting):
                self._waiting[reply.request_id] = waiting
                return ()
            if waiting[0].call.is_claim:
                self._keep(reply.request_id, frozenset(map(_lease_of, reply.grants)))
        if not any(each.call.repeats for each in waiting):  # else the answer may be older than what was sent here
            sent_ms = min([each.call.first_sent_ms for each in waiting])
            self._broker_time.learn(reply.server_now_ms, sent_ms=sent_ms, received_ms=self._now_ms())
        for each in waiting:
            each.call.reply = replace(reply, sent_monotonic_ms=each.call.asked_ms(reply, self._broker_time))
            if not each.future.done():  # it may have been woken just now, for its time
                each.future.set_result(None)
        return ()

    def _surplus(self, reply: Reply) -> Sequence[Reply]:
        """Late grants of other leases than those kept. One for a request that timed out may yet be asked for."""
        kept = self._kept.get(reply.request_id)
        return () if kept is None else [grant for grant in reply.grants if _lease_of(grant) not in kept]

    def _keep(self, request_id: str, leases: frozenset[tuple[str, int]]) -> None:
        self._kept[request_id] = leases
        self._kept.move_to_end(request_id)
        while len(self._kept) > REMEMBERED_MAX:
            self._kept.popitem(last=False)


def _lease_of(grant: Reply) -> tuple[str, int]:
    return str(grant.body["job_id"]), int(grant.body["epoch"])
