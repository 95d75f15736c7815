"""Requests out, replies in, for threads: one reader thread hands each reply to the call that waits for it."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoneYet
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from broker.backoff import Backoff
from broker.client.call import Address, BrokerTime, Call, release_of
from broker.client.connection import Listener, MaybeSent, NotAccepted, NotSent, Sender
from broker.client.errors import BrokerUnavailable, ClientClosed
from broker.client.pending import Pending
from broker.client.reply import Reply, parse_reply
from broker.clock import monotonic_ms
from broker.entropy import Entropy

if TYPE_CHECKING:
    from broker.history import Recorder

log = structlog.get_logger(__name__)


class Exchange:
    """The reply channel of one client, and the rounds of sending and waiting that end in an answer."""

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
        self.notices = self._pending.notices
        self._lock = threading.Lock()
        """Of what is pending."""
        self._closed = threading.Event()
        self._pid = os.getpid()
        self._reader = threading.Thread(target=self._read, name="broker-replies", daemon=True)

    def open(self) -> None:
        """Learn broker time and begin to read replies.

        Raises:
          BrokerUnavailable: Redis can't be reached, or refuses the password.
        """
        sent_ms = monotonic_ms()
        try:
            server_ms = self._sender.server_ms()
        except (NotSent, NotAccepted) as error:
            raise BrokerUnavailable(f"Redis is not reachable: {error}; start it, or check its URL") from error
        if server_ms is not None:
            self.broker_time.learn(server_ms, sent_ms=sent_ms, received_ms=monotonic_ms())
        self._reader.start()

    def close(self) -> None:
        """Stop reading; whoever still waits gets ClientClosed. Closing twice is harmless."""
        if self._closed.is_set() or self._pid != os.getpid():
            return
        self._closed.set()
        self._listener.wake()
        if self._reader.ident is not None:
            self._reader.join()
        with self._lock:
            waiting = self._pending.close()
        for call in waiting:
            call.woken()
        self._listener.close()
        self._sender.close()
        if self.history is not None:
            self.history.close()

    def check_open(self) -> None:
        """Raises ClientClosed where this client can't be used."""
        if self._pid != os.getpid():
            raise ClientClosed("this client was made before a fork; connect a new one in the child process")
        if self._closed.is_set():
            raise ClientClosed("the client is closed")

    def carry_out(self, calls: Sequence[Call], sender: Sender) -> None:
        """Send `calls` until each has its answer or its time is over. The answers are left in the calls.

        Raises:
          BrokerUnavailable: Redis refuses requests. Nothing was sent.
          ClientClosed: the client was closed.
        """
        futures: dict[Call, Future[None]] = {}
        backoff = Backoff(self.entropy)
        abandoned = True
        try:
            while unsettled := [call for call in calls if not call.settled and call.until_ms > monotonic_ms()]:
                self.check_open()
                for call in unsettled:
                    if call not in futures or call.reply is not None:
                        futures[call] = Future()
                        with self._lock:
                            self._pending.expect(call, futures[call])
                pause_s = self._send(unsettled, sender, backoff)
                sent_ms = monotonic_ms()
                for call in unsettled:
                    ends_ms = call.attempt_ends_ms(sent_ms, self._attempt_ms, pause_s)
                    with suppress(NoneYet):
                        futures[call].result(max(0, ends_ms - monotonic_ms()) / 1000)
                if any(call.reply is not None and not call.settled for call in unsettled):
                    self._closed.wait(backoff.next_s())  # an unknown outcome: ask again, but not at once
            abandoned = False
        finally:
            for call in futures:
                with self._lock:
                    self._pending.forget(call, abandoned=abandoned)
                if abandoned and call.reply is not None:
                    for grant in call.reply.grants:
                        self._give_back(grant)

    def _send(self, calls: Sequence[Call], sender: Sender, backoff: Backoff) -> float | None:
        """Send what is unsettled. The pause before the next attempt in seconds, or None where it is on its way."""
        now_ms = monotonic_ms()
        messages = [call.next_attempt(now_ms, self.broker_time) for call in calls]
        try:
            sender.send(messages)
        except NotSent:
            return backoff.next_s()
        except MaybeSent:
            for call in calls:
                call.on_its_way()
            return backoff.next_s()
        except NotAccepted as error:
            raise calls[0].refused(str(error)) from error
        for call in calls:
            call.on_its_way()
        return None

    def _read(self) -> None:
        """The reader thread: until closed, whatever happens."""
        backoff = Backoff(self.entropy)
        while not self._closed.is_set():
            try:
                texts = self._listener.receive()
                with self._lock:
                    surplus = [grant for text in texts for grant in self._pending.deliver(text)]
            except (RedisError, OSError) as error:
                log.warning("reply_channel_lost", error=str(error))
                self._closed.wait(backoff.next_s())
                continue
            except Exception:  # a reply that nobody foresaw must not leave every later one unread
                log.exception("reply_failed")
                continue
            backoff.reset()
            for grant in surplus:
                self._give_back(grant)

    def _give_back(self, grant: Reply) -> None:
        """Release a lease that nobody waits for any more. Where that fails too, it expires."""
        now_ms = monotonic_ms()
        release = release_of(grant, self.address, now_ms=now_ms, entropy=self.entropy)
        log.info("unwanted_lease_released", job=grant.body["job_id"], epoch=grant.body["epoch"])
        try:
            self._sender.send([release.next_attempt(now_ms, self.broker_time)])
        except (NotSent, NotAccepted, MaybeSent) as error:
            log.warning("unwanted_lease_not_released", job=grant.body["job_id"], error=str(error))
