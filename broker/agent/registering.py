"""Registers a start of a factory with a broker that may not be there yet: hosts come up in any order."""

import queue
from collections.abc import Callable
from typing import TypeVar

from broker.agent.pauses import pause_ms
from broker.answers import Retry
from broker.client import BrokerTimeout, BrokerUnavailable, Client, Reply
from broker.clock import monotonic_ms, sleep_ms
from broker.exec.events import HEAR_S, stop_signals

_T = TypeVar("_T")


class IdleEnough(Exception):
    """There was no broker for as long as the agent was to be without work."""


class Registering:
    """Connects and registers, again after growing pauses until there is an answer. From the main thread, once.

    What another try would not change ends it: a password or a right that is refused, an argument, a final answer.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        *,
        idle_exit_ms: int | None = None,
        pause: Callable[[int], None] | None = None,
    ) -> None:
        self._tell, self._pause = tell, pause or _pause
        self._failures = 0
        self._idle_at_ms = None if idle_exit_ms is None else monotonic_ms() + idle_exit_ms

    def run(self, connect: Callable[[], Client], register: Callable[[Client], Reply]) -> tuple[Client, Reply]:
        """The client, and the answer: good, or one that would be the same the next time.

        Raises:
          StoppedEarly: this process was told to stop.
          IdleEnough: it has waited for as long as it may be idle.
          ClientError: another try would fare no better.
        """
        with stop_signals(queue.SimpleQueue()):
            client = self._patiently(connect)
            while True:
                # Each time a new request: one start may register as often as it likes.
                reply = self._patiently(lambda: register(client))
                if reply.good or reply.retry is Retry.FINAL:
                    return client, reply
                self._again(reply.summary, least_ms=reply.retry_after_ms or 0)

    def _patiently(self, ask: Callable[[], _T]) -> _T:
        while True:
            try:
                return ask()
            except BrokerUnavailable as error:
                if error.refused:
                    raise
                self._again(str(error))
            except BrokerTimeout as error:
                self._again(str(error).partition("; repeat it")[0])

    def _again(self, why: str, *, least_ms: int = 0) -> None:
        """Say why, and pause before the next try.

        Raises:
          IdleEnough: there is to be none.
        """
        self._failures += 1
        now_ms, lasts_ms = monotonic_ms(), max(pause_ms(self._failures), least_ms)
        if self._idle_at_ms is not None and now_ms + lasts_ms >= self._idle_at_ms:
            self._tell(f"not registered: {why}")
            self._pause(max(0, self._idle_at_ms - now_ms))
            raise IdleEnough
        self._tell(f"not registered yet: {why}; trying again in {lasts_ms / 1000:g} s")
        self._pause(lasts_ms)


def _pause(lasts_ms: int) -> None:
    """In stretches that are short enough for a signal to be heard."""
    until_ms = monotonic_ms() + lasts_ms
    while (left_ms := until_ms - monotonic_ms()) > 0:
        sleep_ms(min(left_ms, HEAR_S * 1000))
