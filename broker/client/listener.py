"""The connection on which a client of threads waits for replies: one of them reads, and any may ask ahead."""

import select
import socket
import threading
from typing import Any

from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from broker.client.channel import Channel
from broker.client.connection import DEAD_AFTER_S, SEND_TIMEOUT_S, options, packed_look, packed_wait, replies_of
from broker.clock import monotonic_ms
from broker.redis_password import Password, let_in

ANSWERS = 2
"""To the question: of BLPOP and of LPOP."""


class Listener:
    """One thread at a time receives. Replies that it has received stay until they are handed over, whoever receives."""

    def __init__(self, url: str, key: str, *, password: Password | None) -> None:
        self._pool = ConnectionPool.from_url(url, retry=Retry(NoBackoff(), 0), **options(SEND_TIMEOUT_S))
        let_in(self._pool, password)
        self._question, self._look = packed_wait(key), packed_look(key)
        self.lost = False
        """The connection was, and no other has answered since."""
        self._channel: _Answering | None = None
        self._asking = threading.Lock()
        self._asked = False
        self._dead_ms = 0
        """When the question has had no answer for too long; this host's monotonic clock."""
        self._woken, self._waker = socket.socketpair()
        self._poll = select.poll()
        self._poll.register(self._woken, select.POLLIN)

    def receive(self, wait_ms: int) -> list[bytes]:
        """Wait for replies, and return all there are: the same ones until they are `handed_over`; often none.

        Raises:
          RedisError, OSError: the connection is lost; the next call makes a new one.
        """
        try:
            return self._receive(wait_ms)
        except (RedisError, OSError):
            self.lost = True
            self.disconnect()
            raise

    def handed_over(self) -> None:
        """What was received is with those who wait for it."""
        channel = self._channel
        if channel is not None:
            self._asked = False  # first: where an interrupt comes now, it is handed over twice, which changes nothing
            del channel.answers[:ANSWERS]

    def ask_ahead(self) -> None:
        """Ask for replies where that was not done, for whoever receives next. What goes wrong is told to that one."""
        channel = self._channel
        if channel is not None and not self._asked:
            try:
                self._ask(channel)
            except OSError:
                return

    def wake(self) -> None:
        """Let `receive` return."""
        self._waker.send(b"w")

    def disconnect(self) -> None:
        """Drop the connection."""
        channel, self._channel = self._channel, None
        self._asked = False
        if channel is not None:
            self._poll.unregister(channel.socket)
            channel.close()

    def close(self) -> None:
        """Drop the connection for good. To be called once nobody receives."""
        self.disconnect()
        self._woken.close()
        self._waker.close()

    def _receive(self, wait_ms: int) -> list[bytes]:
        channel = self._channel
        if channel is None:
            self._asked = False
            channel = _Answering(self._pool)
            self._poll.register(channel.socket, select.POLLIN)
            self._channel = channel
        answers = channel.answers
        channel.drain(answers)  # somebody may have been interrupted between reading and this
        if len(answers) < ANSWERS:
            if not self._asked:
                self._ask(channel)
            self._collect(channel, wait_ms)
            if len(answers) < ANSWERS:
                return []
        texts = replies_of(answers[:ANSWERS])
        self.lost = False
        if not texts:  # nothing came for as long as Redis waits: ask again
            self.handed_over()
        return texts

    def _ask(self, channel: "_Answering") -> None:
        with self._asking:
            if not self._asked:
                self._dead_ms = monotonic_ms() + int(DEAD_AFTER_S * 1000)
                channel.send(self._look if self.lost else self._question)
                # After it: where an interrupt comes in between, it is asked twice, and the second answer waits.
                self._asked = True

    def _collect(self, channel: "_Answering", wait_ms: int) -> None:
        left_ms = self._dead_ms - monotonic_ms()  # a dead connection wakes nobody, however long they would wait
        if wait_ms > left_ms:
            wait_ms = left_ms if left_ms > 0 else 0
        ready = [fd for fd, _ in self._poll.poll(wait_ms)]
        if self._woken.fileno() in ready:
            self._woken.recv(4096)
        if channel.socket.fileno() in ready:
            channel.read()
            channel.drain(channel.answers)
        elif monotonic_ms() >= self._dead_ms:
            raise TimeoutError(f"the reply channel was silent for {DEAD_AFTER_S} s")


class _Answering(Channel):
    """A connection, with the answers that were read and not yet handed over."""

    def __init__(self, pool: ConnectionPool) -> None:
        super().__init__(pool)
        self.answers: list[Any] = []
