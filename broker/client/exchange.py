"""Requests out, replies in, for threads: one of those that wait reads, and hands each reply to the call it is for."""

import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from broker.backoff import Backoff
from broker.client.call import Address, BrokerTime, Call, release_of
from broker.client.connection import MaybeSent, NotAccepted, NotHeard, NotSent, Sender, shut_out
from broker.client.errors import ClientClosed
from broker.client.listener import Listener
from broker.client.logger import Logger
from broker.client.pending import LATE_MS, Pending
from broker.client.reply import Reply, parse_reply
from broker.client.turns import Turns, Waiter
from broker.clock import monotonic_ms
from broker.entropy import Entropy
from broker.failures import trace

if TYPE_CHECKING:
    from broker.history import Recorder

log = Logger(__name__)

IDLE_S = 0.05
"""How long the channel stays unread after the last call, before a thread reads what comes unasked."""
LOOK_MS = 60_000


class Exchange:
    """The reply channel of one client, and the rounds of sending and waiting that end in an answer.

    A caller that waits alone reads its own reply: no thread hands it over. Of several, one reads for all (`Turns`).
    While nobody waits, a thread of the client's own reads: notices, and grants that nobody wants any more.
    """

    def __init__(
        self,
        address: Address,
        listener: Listener,
        sender: Sender,
        *,
        entropy: Entropy,
        attempt_ms: int,
        history: "Recorder | None" = None,
        read: Callable[[bytes], Reply] = parse_reply,
    ) -> None:
        self.address = address
        self.history = history
        self.broker_time = BrokerTime()
        self._listener = listener
        self._sender = sender
        self.entropy = entropy
        self._attempt_ms = attempt_ms
        self._pending = Pending(self.broker_time, monotonic_ms, read=read)
        self._lock = threading.RLock()  # a handler of a signal may close the client, wherever this thread is
        """Of what is pending."""
        self.notices = self._pending.notices
        self._turns = Turns()
        self._lost = Backoff(entropy)
        self._away_until_ms = 0
        """The reply channel was lost, and is not tried again before."""
        self._missed = False
        """It was, and those who wait have not been told since that it is read again."""
        self._closed = threading.Event()
        self._pid = os.getpid()
        self._watch = threading.Thread(target=self._read_unasked, name="broker-replies", daemon=True)

    def open(self) -> None:
        """Learn broker time and begin to read replies.

        Raises:
          BrokerUnavailable: Redis can't be reached, refuses the password, or to show replies.
        """
        sent_ms = monotonic_ms()
        try:
            server_ms = self._sender.server_ms(self.address.channel)
        except (NotSent, NotAccepted, NotHeard) as error:
            raise shut_out(error, self.address.factory_id) from error
        if server_ms is not None:
            self.broker_time.learn(server_ms, sent_ms=sent_ms, received_ms=monotonic_ms())
        self._watch.start()

    def close(self, *, settle: bool = True) -> None:
        """Settle what was given up, and stop reading; whoever still waits gets ClientClosed. Twice is harmless."""
        if self._closed.is_set() or self._pid != os.getpid():
            return
        try:
            if settle:
                self.settle()
        finally:
            self._stop()

    def _stop(self) -> None:
        self._closed.set()
        self._listener.wake()
        if self._watch.ident is not None:
            self._watch.join()
        self._wait_for_the_reader()
        with self._lock:
            waiting = self._pending.close()
        for call in waiting:
            call.woken()
        self._listener.close()
        self._sender.close()
        if self.history is not None:
            self.history.close()

    def settle(self, within_ms: int | None = None) -> bool:
        """Wait until each claim that was given up is answered, and what it got is given back. False: they are not.

        Without `within_ms` as long as they may be granted, which is until their own time is over.
        """
        waiter = Waiter()
        now_ms = monotonic_ms()
        until_ms, again_ms = None if within_ms is None else now_ms + within_ms, now_ms + self._attempt_ms
        try:
            while calls := self._given_up(waiter):
                now_ms = monotonic_ms()
                self._turns.begin(waiter)
                if (until_ms is not None and now_ms >= until_ms) or self._is_read_below(waiter):
                    return False
                if now_ms >= again_ms:
                    again_ms = now_ms + self._attempt_ms
                    self._withdraw(calls)
                ends_ms = min(again_ms, max(call.until_ms for call in calls) + LATE_MS, until_ms or again_ms)
                self._read_or_wait(waiter, max(1, ends_ms - now_ms))
        finally:
            self._turns.end(waiter)
        return True

    def _given_up(self, waiter: Waiter) -> list[Call]:
        """What was given up; an answer to it wakes `waiter`."""
        with self._lock:
            calls = self._pending.given_up()
            for call in calls:
                call.wake = waiter
        return calls

    def _is_read_below(self, waiter: Waiter) -> bool:
        """Whether this very thread reads, below the handler of a signal: nothing is read until that has returned."""
        reader = self._turns.reader
        return reader is not None and reader is not waiter and reader.thread == waiter.thread

    def check_open(self, call: Call | None = None) -> None:
        """Raises ClientClosed where this client can't be used, for this `call` or at all."""
        if self._pid != os.getpid():
            raise ClientClosed("this client was made before a fork; connect a new one in the child process")
        if self._closed.is_set():
            raise ClientClosed("the client is closed") if call is None else call.closed()

    def carry_out(self, calls: Sequence[Call], sender: Sender) -> None:
        """Send `calls` until each has its answer or its time is over. The answers are left in the calls.

        Raises:
          BrokerUnavailable: Redis refuses requests. Nothing was sent.
          ClientClosed: the client was closed.
        """
        waiter = Waiter()
        backoff: Backoff | None = None
        abandoned = True
        self.check_open(calls[0] if calls else None)  # a forked child leaves nothing: its locks may be held for ever
        try:
            while unsettled := [call for call in calls if not call.settled and call.until_ms > monotonic_ms()]:
                self.check_open(unsettled[0])
                with self._lock:
                    for call in unsettled:
                        self._pending.expect(call, waiter)
                trouble = self._send(unsettled, sender)
                pause_s: float | None = None
                if trouble is not None:
                    backoff = backoff or Backoff(self.entropy)
                    pause_s = backoff.next_s()
                self._wait(unsettled, waiter, pause_s)
                for call in unsettled:
                    if call.reply is not None and not call.settled:  # an unknown outcome: ask again, but not at once
                        backoff = backoff or Backoff(self.entropy)
                        self._closed.wait(backoff.next_s())
                        break
            abandoned = False
        finally:
            self._leave(calls, waiter, abandoned=abandoned)

    def _leave(self, calls: Sequence[Call], waiter: Waiter, *, abandoned: bool) -> None:
        """Nobody waits for `calls` any more."""
        self._turns.end(waiter)  # once more: an interrupt may have come just as the wait ended
        with self._lock:
            for call in calls:
                self._pending.forget(call, abandoned=abandoned)
        if abandoned:
            for call in calls:
                for grant in () if call.reply is None else call.reply.grants:
                    self._give_back(grant)
            self._withdraw(calls)

    def _send(self, calls: Sequence[Call], sender: Sender) -> Exception | None:
        """Send what is unsettled. None where it is on its way, else what went wrong.

        Raises:
          BrokerUnavailable, BrokerTimeout: Redis does not take it, and would not take it the next time.
        """
        now_ms = monotonic_ms()
        messages = []
        for call in calls:
            messages.append(call.next_attempt(now_ms, self.broker_time))
            call.on_its_way()  # before it is: where an interrupt comes meanwhile, it may have been sent
        try:
            sender.send(messages, self._listener.ask_ahead)
        except NotSent as error:
            for call in calls:
                call.never_left(str(error))
            return error
        except MaybeSent as error:
            return error
        except NotAccepted as error:
            for call in calls:
                call.never_left(str(error))
            raise calls[0].refused(str(error), error.advice) from error
        return None

    def _wait(self, calls: Sequence[Call], waiter: Waiter, pause_s: float | None) -> None:
        """Until each of `calls` is answered or given up for now; reading for everybody where it is this one's turn."""
        ends_ms = now_ms = monotonic_ms()
        for call in calls:
            call_ends_ms = call.attempt_ends_ms(now_ms, self._attempt_ms, pause_s)
            if call_ends_ms > ends_ms:
                ends_ms = call_ends_ms
        try:
            self._turns.begin(waiter)
            while not self._closed.is_set() and self._awaits(calls):
                left_ms = ends_ms - monotonic_ms()
                if left_ms <= 0:
                    return
                self._read_or_wait(waiter, left_ms)
        finally:
            self._turns.end(waiter)

    def _read_or_wait(self, waiter: Waiter, left_ms: int) -> None:
        """Read for everybody where it is this one's turn, or wait for whoever reads. Comes back early now and then."""
        if self._turns.reads(waiter):
            self._read(left_ms)
        else:
            waiter.wait(left_ms)

    def _awaits(self, calls: Sequence[Call]) -> bool:
        with self._lock:
            return self._pending.awaits(calls)

    def _read(self, wait_ms: int) -> None:
        """Read what comes next, for everybody. Comes back early now and then."""
        if self._away_until_ms and (away_ms := self._away_until_ms - monotonic_ms()) > 0:
            self._closed.wait(min(wait_ms, away_ms) / 1000)
            return
        try:
            texts = self._listener.receive(wait_ms)
        except (RedisError, OSError) as error:
            if not self._closed.is_set():
                log.warning("reply_channel_lost", error=str(error))
                self._missed = True
                self._pending.lost(error)
                self._away_until_ms = monotonic_ms() + int(self._lost.next_s() * 1000)
            return
        if texts:
            self._deliver(texts)
        self._lost.reset()
        if self._missed and not self._listener.lost:
            with self._lock:
                self._pending.heard_again()
            self._missed = False

    def _deliver(self, texts: Sequence[bytes]) -> None:
        surplus: list[Reply] = []
        for text in texts:
            try:
                with self._lock:
                    surplus += self._pending.deliver(text)
            except Exception:  # a reply that nobody foresaw must not leave every other one unread
                log.error("reply_failed", exception=trace())
        for grant in surplus:
            try:
                self._give_back(grant)
            except Exception:  # nor must a grant without what it takes to give it back
                log.error("reply_failed", exception=trace())
        self._listener.handed_over()  # last: an interrupt before it does all this once more, which changes nothing

    def _read_unasked(self) -> None:
        """The thread that reads while nobody waits: until closed, whatever happens."""
        stand_in = Waiter()
        while not self._closed.is_set():
            if self._turns.stand_in(stand_in):
                try:
                    while not (self._turns.wanted or self._closed.is_set()):
                        self._read(LOOK_MS)
                except Exception:  # a mistake of ours: it is tried again, as by whoever asks next
                    log.error("reading_failed", exception=trace())
                finally:
                    self._turns.end(stand_in)
            self._closed.wait(IDLE_S)

    def _wait_for_the_reader(self) -> None:
        """Until nobody reads any more, unless this thread does: a handler of a signal may close the client."""
        last = Waiter()
        self._turns.begin(last)
        while not self._turns.reads(last) and self._turns.reader is not None:
            if self._is_read_below(last):
                break
            last.wait(LOOK_MS)
        self._turns.end(last)

    def _withdraw(self, calls: Sequence[Call]) -> None:
        """End the waits of claims that were given up. Where that fails, they last until their time is over."""
        now_ms = monotonic_ms()
        messages = [each for call in calls if (each := call.withdrawal(now_ms, self.broker_time)) is not None]
        if not messages or self._closed.is_set():
            return
        try:
            self._sender.send(messages)
        except (NotSent, NotAccepted, MaybeSent) as error:
            log.info("claims_not_withdrawn", error=str(error))

    def _give_back(self, grant: Reply) -> None:
        """Release a lease that nobody waits for any more. Where that fails too, it expires."""
        now_ms = monotonic_ms()
        release = release_of(grant, self.address, now_ms=now_ms, entropy=self.entropy)
        log.info("unwanted_lease_released", job=grant.body["job_id"], epoch=grant.body["epoch"])
        try:
            self._sender.send([release.next_attempt(now_ms, self.broker_time)])
        except (NotSent, NotAccepted, MaybeSent) as error:
            log.warning("unwanted_lease_not_released", job=grant.body["job_id"], error=str(error))
