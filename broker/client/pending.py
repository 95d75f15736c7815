"""Which waiting caller a reply belongs to, and which grants nobody waits for any more."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from redis.exceptions import ResponseError

from broker.answers import SAME_ID
from broker.client.call import BrokerTime, Call, Waiter
from broker.client.logger import Logger
from broker.client.not_now import way_out
from broker.client.notices import Notices
from broker.client.reply import Reply, parse_reply

log = Logger(__name__)

REMEMBERED = 4_096
"""Claims whose outcome is remembered to recognise a second grant: as many as a reply channel holds, or twice that."""
LATE_MS = 500
"""How much later than its deadline a grant may come that was given just before it."""
GIVEN_UP_MAX = 256
"""With more of these, those are looked for that are past their time."""

Leases: TypeAlias = tuple[tuple[str, int], ...]
"""Jobs and epochs."""


class Pending:
    """Requests without an answer, by request id. Not safe under threads."""

    def __init__(
        self, broker_time: BrokerTime, now_ms: Callable[[], int], *, read: Callable[[bytes], Reply] = parse_reply
    ) -> None:
        self.notices = Notices()
        self._read = read
        self._broker_time = broker_time
        self._now_ms = now_ms
        self._waiting: dict[str, tuple[Call, ...]] = {}
        self._kept: dict[str, Leases] = {}
        self._kept_before: dict[str, Leases] = {}
        self._given_up: dict[str, Call] = {}
        self._unheard: str | None = None

    def expect(self, call: Call, wake: Waiter) -> None:
        """Complete `wake` once `call` has its next reply. Several callers may wait for one request id.

        A further one for the same call takes the place of the one before.
        """
        call.wake = wake
        waiting = self._waiting.get(call.request_id)
        if waiting is None:
            self._waiting[call.request_id] = (call,)
        elif call not in waiting:
            self._waiting[call.request_id] = (*waiting, call)

    def forget(self, call: Call, *, abandoned: bool) -> None:
        """Nobody waits for `call` any more. `abandoned`: nobody will repeat it, so a late grant is given back."""
        call.unheard = self._unheard
        waiting = self._waiting.get(call.request_id)
        if waiting is not None:
            if others := tuple([each for each in waiting if each is not call]):
                self._waiting[call.request_id] = others
                return
            del self._waiting[call.request_id]
        if abandoned and call.is_claim:
            self._keep(call.request_id, ())
            if not call.settled:
                self._given_up[call.request_id] = call
                if len(self._given_up) > GIVEN_UP_MAX:
                    self.given_up()

    def lost(self, error: Exception) -> None:
        """The reply channel can't be read: where this user may not, whoever gets no answer is to know why."""
        refused = isinstance(error, ResponseError) and way_out(str(error)) is None
        self._unheard = str(error) if refused else None

    def heard_again(self) -> None:
        """The reply channel was lost, and is read again. What has no wait is sent again soon in any case."""
        self._unheard = None
        for call in self.calls():
            if call.waits:
                call.may_be_gone = True
                call.woken()

    def given_up(self) -> list[Call]:
        """Claims that nobody waits for any more, and that may be granted still."""
        over_ms = self._now_ms() - LATE_MS
        self._given_up = {id: call for id, call in self._given_up.items() if call.until_ms > over_ms}
        return [call for call in self._given_up.values() if call.out]

    @property
    def wanted(self) -> bool:
        """Whether a reply is to be read: somebody waits for it, or it may be a grant to give back."""
        return bool(self._waiting or self._given_up)

    def awaits(self, calls: Iterable[Call]) -> bool:
        """Whether one of `calls` is expected, has had no reply, and need not be sent again before that."""
        for call in calls:  # noqa: SIM110  # a generator for one call costs more than to look
            if call in self._waiting.get(call.request_id, ()) and not call.may_be_gone:
                return True
        return False

    def calls(self) -> Iterable[Call]:
        """All that are expected to be answered."""
        return (call for calls in self._waiting.values() for call in calls)

    def close(self) -> list[Call]:
        """Forget everything. Returns the calls nobody will wake any more."""
        waiting = list(self.calls())
        self._waiting.clear()
        return waiting

    def deliver(self, text: bytes) -> Sequence[Reply]:
        """Hand a reply to whoever waits for it. Returns grants that nobody wants: to be released at once."""
        try:
            reply = self._read(text)
        except ValueError as error:
            if not self.notices.deliver(text):
                log.warning("reply_not_understood", error=str(error))
            return ()
        given_up = self._given_up.get(reply.request_id)
        if given_up is not None:
            self._answer_one_given_up(given_up, reply)
        waiting = self._waiting.get(reply.request_id)
        if waiting is None:
            return self._surplus(reply)
        now_ms = self._now_ms()
        first = waiting[0]
        repeats = first.repeats or len(waiting) > 1  # a request id of our own making has one caller
        if repeats and _of_an_earlier_copy(waiting, reply, now_ms):
            return ()
        decides = reply.retry is not SAME_ID  # else it may be anybody's, and the answer is still to come
        if decides and first.is_claim:
            self._keep(reply.request_id, leases_of(reply))
        if decides and not repeats:  # else the answer may be older than what was sent here
            self._broker_time.learn(reply.server_now_ms, sent_ms=first.first_sent_ms, received_ms=now_ms)
        for call in waiting:
            call.reply = reply.sent_at(call.asked_ms(reply, self._broker_time) if repeats else call.first_sent_ms)
            call.woken()
        del self._waiting[reply.request_id]  # last: whoever is interrupted above delivers it once more
        return ()

    def _answer_one_given_up(self, call: Call, reply: Reply) -> None:
        call.reply = reply
        if call.settled:
            del self._given_up[reply.request_id]
            call.woken()

    def _surplus(self, reply: Reply) -> Sequence[Reply]:
        """Late grants of other leases than those kept. One for a request that timed out may yet be asked for."""
        kept = self._kept.get(reply.request_id, self._kept_before.get(reply.request_id))
        return () if kept is None else [grant for grant in reply.grants if leases_of(grant)[0] not in kept]

    def _keep(self, request_id: str, leases: Leases) -> None:
        self._kept[request_id] = leases
        if len(self._kept) >= REMEMBERED:
            self._kept, self._kept_before = {}, self._kept


def _of_an_earlier_copy(waiting: Iterable[Call], reply: Reply, now_ms: int) -> bool:
    return any(call.is_of_an_earlier_copy(reply, now_ms=now_ms) for call in waiting)


def leases_of(reply: Reply) -> Leases:
    """What a reply gives."""
    if reply.granted:
        return ((reply.body["job_id"], reply.body["epoch"]),)
    return tuple([lease for grant in reply.grants for lease in leases_of(grant)])
