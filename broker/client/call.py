"""One request on its way: its attempts, its time, and what may be said of it when no answer comes."""

import secrets
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from broker.answers import SAME_ID, Reason, Word
from broker.client.errors import BrokerTimeout, BrokerUnavailable, ClientClosed, ClientError, InvalidRequest
from broker.client.not_now import way_out
from broker.client.reply import Reply
from broker.client.wording import check_request_id, form, problems
from broker.entropy import Entropy
from broker.messages import Claim, Envelope, Release
from broker.parsing import parse
from broker.queues import Message
from broker.replies import reply_key
from broker.wire_types import FactoryId

if TYPE_CHECKING:  # a client that records nothing does not load it
    from broker.history import Record, Recorder

ATTEMPT_MS = 3_000
"""How long one attempt waits for its answer before the request is sent again with the same id."""
DEADLINE_AHEAD_MAX_MS = 840_000
"""Less than the fifteen minutes that a broker takes in a signed request: the rest is for clocks."""


_PASSING = frozenset({Word.CONFLICT, Word.NOT_FOUND})
"""Refusals that nothing remembers, of a state that others may change."""


class NewId(str):
    """A request id of the caller's own that was never sent before: `request_id=NewId("nightly-1")`.

    Without it such an id repeats an earlier request, and an answer is waited for that also speaks for that one.
    """

    __slots__ = ()


class Waiter(Protocol):
    """A future, of threads or of asyncio. It wakes its caller; what there is to know is in the call."""

    def done(self) -> bool: ...
    def set_result(self, result: None, /) -> None: ...


class Address(BaseModel):
    """Who asks, and where the answer goes."""

    model_config = ConfigDict(frozen=True)

    factory_id: FactoryId
    incarnation: FactoryId
    """One start of the factory. Requests are repeated under the same one, or they count as another's."""
    instance: FactoryId
    """One client; names the reply channel together with the factory."""

    @cached_property
    def text(self) -> str:
        """Its fields as they stand in every envelope. Ids have been validated: they need no quoting."""
        return f'"factory_id":"{self.factory_id}","incarnation":"{self.incarnation}","instance":"{self.instance}"'

    @cached_property
    def channel(self) -> str:
        """Its reply channel."""
        return reply_key(self.factory_id, self.instance)

    @classmethod
    def checked(cls, factory_id: str, incarnation: str | None) -> Self:
        """An address of a new client; without an `incarnation` it is a start of its own.

        Raises:
          InvalidRequest: an id that the protocol does not allow.
        """
        fields = {"factory_id": factory_id, "incarnation": incarnation or secrets.token_hex(8)}
        try:
            return cls.model_validate(fields | {"instance": secrets.token_hex(8)})
        except ValidationError as error:
            raise InvalidRequest(problems(error)) from None


class BrokerTime:
    """Broker time as this client knows it: good enough for deadlines of requests; a lease it can only shorten."""

    def __init__(self) -> None:
        self._ahead_ms: int | None = None

    def learn(self, server_ms: int, *, sent_ms: int, received_ms: int) -> None:
        """Broker time was `server_ms` at some moment between two readings of this host's monotonic clock."""
        least, most = server_ms - received_ms, server_ms - sent_ms
        if self._ahead_ms is None:
            self._ahead_ms = (least + most) // 2
        elif self._ahead_ms > most:
            self._ahead_ms = most
        elif self._ahead_ms < least:
            self._ahead_ms = least

    def at(self, monotonic_ms: int) -> int | None:
        """Broker time at a moment of this host's monotonic clock; None while nothing was learned."""
        return None if self._ahead_ms is None else self._ahead_ms + monotonic_ms

    def when(self, server_ms: int) -> int | None:
        """This host's monotonic clock as it was `server_ms` in broker time; None while nothing was learned."""
        return None if self._ahead_ms is None else server_ms - self._ahead_ms


class Call:
    """A request from its first attempt to its answer.

    A request id of the caller's own may have been sent before, by this process or another: its attempts start
    at two, which makes the broker look for what the first one did. One that is a `NewId` was not.
    """

    __slots__ = (
        "_address",
        "_asked_again",
        "_attempt",
        "_body",
        "_fields",
        "_form",
        "_hindered",
        "_history",
        "_invoked",
        "_out",
        "_patience_ms",
        "_request",
        "_timeout_ms",
        "_wait_ms",
        "first_sent_ms",
        "is_claim",
        "may_be_gone",
        "repeats",
        "reply",
        "request_id",
        "trouble",
        "unheard",
        "until_ms",
        "wake",
    )

    def __init__(
        self,
        kind: type[Envelope],
        body: Mapping[str, Any],
        address: Address,
        *,
        request_id: str | None,
        timeout_ms: int,
        now_ms: int,
        entropy: Entropy,
        history: "Recorder | None" = None,
    ) -> None:
        self.repeats = request_id is not None and not isinstance(request_id, NewId)
        """Whether an earlier call may have sent this request, whose answer this one may be given."""
        self._attempt = 2 if self.repeats else 1
        if request_id is None:
            self.request_id = entropy.token()
        else:
            check_request_id(request_id)
            self.request_id = str(request_id)  # not new any more for whoever is told it
        self.is_claim = kind is Claim
        self._form = form(kind)
        self._fields = body
        self._body = self._form.body(body)
        self._address = address
        self._wait_ms = self._patience_ms = int(body["wait_ms"]) if self.waits else 0
        self._timeout_ms = timeout_ms + self._wait_ms
        self.until_ms = now_ms + self._timeout_ms
        self.first_sent_ms = now_ms
        self._out = 0
        """Attempts that were sent, or may have been."""
        self._hindered: str | None = None
        """Why the last attempt was not sent."""
        self._asked_again = False
        """Whether an attempt was sent after one of several was refused."""
        self._history = history
        self._invoked: Record | None = None
        self.reply: Reply | None = None
        self.trouble: Exception | None = None
        """Why the last attempt did not get to its queue, or may not have. Read and cleared by whoever waits."""
        self.may_be_gone = False
        """The Redis that it waits in was lost: it is to be sent again, for it may not wait in the one there is now."""
        self.unheard: str | None = None
        """Why its answer could not be read, where Redis refuses that."""
        self.wake: Waiter | None = None
        """Completed as there is something new to know: a reply, trouble, or that its time is over."""

    def begin(self, now_ms: int) -> None:
        """Its time begins now, where others made with it came first."""
        self.until_ms = now_ms + self._timeout_ms

    @property
    def settled(self) -> bool:
        """Whether there is nothing left to send: an answer is known, or the time is over."""
        said = self.reply
        if said is None or said.retry is SAME_ID:
            return False
        return not (self._turned_away_again(said) or self._may_be_granted_to_another_copy(said))

    def next_attempt(self, now_ms: int, broker_time: BrokerTime) -> Message:
        """What to send now. Its deadline is the end of the caller's own patience, in broker time, or sooner."""
        self.may_be_gone = False
        if self._patience_ms and (self._out or self._hindered is not None):
            wait_ends_ms = self.until_ms - self._timeout_ms + self._wait_ms
            self._wait_for(max(0, int(wait_ends_ms - now_ms)))
        if self._out:
            self._attempt += 1
            self._asked_again = self.reply is not None and self.reply.answer in _PASSING
        else:
            self.first_sent_ms = now_ms
        text = self._text(now_ms, broker_time)
        if self._history is not None and self._invoked is None:
            self._request = parse(text)
            self._invoked = self._history.invoked(self._request)
        return Message(self._form.queue, self.request_id, self._attempt, text)

    def withdrawal(self, now_ms: int, broker_time: BrokerTime) -> Message | None:
        """The claim once more, without a wait: it is answered at once, also where no copy of it has left yet. None of
        anything else."""
        if not self.is_claim or not self._out or self.settled:
            return None
        if self._patience_ms:
            self._timeout_ms -= self._wait_ms
            self.until_ms = min(self.until_ms, now_ms + self._timeout_ms)
            self._wait_for(0)
        self._attempt += 1
        text = self._text(now_ms, broker_time)
        return Message(self._form.queue, self.request_id, self._attempt, text)

    def _wait_for(self, ms: int) -> None:
        """Ask for this wait from now on."""
        self._patience_ms = ms
        self._body = self._form.body({**self._fields, "wait_ms": ms})

    def _text(self, now_ms: int, broker_time: BrokerTime) -> str:
        """The envelope. A request id has been validated, too."""
        until_ms, most_ms = self.until_ms, now_ms + DEADLINE_AHEAD_MAX_MS
        deadline_ms = broker_time.at(until_ms if until_ms < most_ms else most_ms)
        deadline = "" if deadline_ms is None else f'"deadline_ms":{int(deadline_ms)},'  # a timeout may be a fraction
        return (
            f'{{"v":1,"request_id":"{self.request_id}","op":"{self._form.op}","attempt":{self._attempt},'
            f'{self._address.text},{deadline}"body":{self._body}}}'
        )

    @property
    def waits(self) -> bool:
        """Whether it is a claim that the broker may keep waiting."""
        return self.is_claim and self._fields.get("job_id") is None and bool(self._fields.get("wait_ms"))

    @property
    def out(self) -> bool:
        """Whether an attempt was sent, or may have been."""
        return self._out > 0

    def woken(self) -> None:
        """There is something new to know."""
        wake = self.wake
        if wake is not None and not wake.done():
            wake.set_result(None)

    def on_its_way(self) -> None:
        """An attempt was sent, or may have been."""
        self._out += 1
        self._hindered = None

    def never_left(self, why: str) -> None:
        """An attempt that was on its way turned out not to have been sent."""
        self._out -= 1
        self._hindered = why

    def attempt_ends_ms(self, now_ms: int, attempt_ms: int, pause_s: float | None) -> int:
        """When this attempt is given up: after `pause_s` where it failed, and not while a claim waits for work."""
        lasts_ms = attempt_ms + self._patience_ms if pause_s is None else int(pause_s * 1000)
        ends_ms = now_ms + lasts_ms
        return ends_ms if ends_ms < self.until_ms else self.until_ms

    def answer(self) -> Reply:
        """The answer, or the failure that says what is known without one.

        Raises:
          BrokerUnavailable: nothing was sent.
          BrokerTimeout: it may have taken effect.
        """
        reply = self._known()
        if self._history is not None and self._invoked is not None:
            self._history.ended(self._invoked, self._request, reply, sent=self._out > 0)
        if reply is None:
            raise self._failure()
        return reply

    def asked_ms(self, reply: Reply, broker_time: BrokerTime) -> int:
        """From when a holder counts its deadline (I9): as this call was sent, or earlier where its answer is older."""
        answered_ms = broker_time.when(reply.server_now_ms) if self.repeats else None
        return self.first_sent_ms if answered_ms is None else min(self.first_sent_ms, answered_ms)

    def is_of_an_earlier_copy(self, reply: Reply, *, now_ms: int) -> bool:
        """Whether a reply answers a copy that an earlier call left in the queue, and not this one.

        That copy found its own deadline over; this call's is not, so its answer is still to come.
        """
        return self.repeats and now_ms < self.until_ms and self._may_have_been_done(reply)

    def refused(self, why: str, advice: str) -> ClientError:
        """The failure to raise where Redis takes no request, and what helps."""
        if not self._out:
            return BrokerUnavailable(f"Redis refused: {why}; nothing was sent; {advice}", refused=True)
        return BrokerTimeout(f"Redis refused to take the request again: {why}; {advice}", request_id=self.request_id)

    def closed(self) -> ClientClosed:
        """The failure to raise where the client was closed meanwhile."""
        if not self._out:
            return ClientClosed("the client is closed")
        what = f"{self._form.op}: the client was closed while this was on its way"
        return ClientClosed(what, request_id=self.request_id)

    def _known(self) -> Reply | None:
        """The answer, unless it is of one copy alone, and says nothing of the others."""
        said = self.reply
        if said is None or self._attempt == 1:
            return said
        return None if self._may_have_been_done(said) or self._turned_away_again(said) else said

    def _may_have_been_done(self, reply: Reply) -> bool:
        """A late attempt that found its time over says nothing of an earlier one."""
        late = reply.answer is Word.REQUEST_EXPIRED and reply.reason is not Reason.LEASE_OVER
        return late and self._attempt > 1

    def _turned_away_again(self, reply: Reply) -> bool:
        """One copy of several was not looked at, which says nothing of the others."""
        return self._attempt > 1 and reply.answer is Word.THROTTLED

    def _may_be_granted_to_another_copy(self, reply: Reply) -> bool:
        """Whether one copy of several was refused for what may have passed as the next is judged. So it is asked once
        more, behind them all; a claim is not, since what another copy of it is granted is given back.
        """
        return self._out > 1 and not self._asked_again and not self.is_claim and reply.answer in _PASSING

    def _failure(self) -> ClientError:
        what = f"{self._form.op}: no answer within {self._timeout_ms} ms"
        if not self._out and not self.repeats:
            if self._hindered is None:
                return BrokerUnavailable(f"{what}, in which it could not be sent; nothing was sent; give it more time")
            advice = way_out(self._hindered)
            what = f"{what}: Redis took nothing: {self._hindered}; nothing was sent"
            return BrokerUnavailable(f"{what}; {advice or 'is it running?'}", answers=advice is not None)
        advice = "is a broker worker running?"
        if self._hindered is not None:
            what += f": Redis took nothing the last time: {self._hindered}"
            advice = way_out(self._hindered) or "is it running?"
        elif self.unheard is not None:
            what += f": Redis refuses to show it ({self.unheard})"
            advice = "a user of `broker acl` reads those of one factory"
        return BrokerTimeout(f"{what}; {advice}", request_id=self.request_id)


def release_of(grant: Reply, address: Address, *, now_ms: int, entropy: Entropy) -> Call:
    """A call that gives a granted lease back."""
    body = {name: grant.body[name] for name in ("job_id", "epoch", "token")}
    return Call(Release, body, address, request_id=None, timeout_ms=ATTEMPT_MS, now_ms=now_ms, entropy=entropy)
