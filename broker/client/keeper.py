"""Keeps the leases of one client, for threads: renews them together, and watches their deadlines apart from that."""

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from broker.client.errors import ClientClosed, ClientError
from broker.client.notices import Notices
from broker.client.renewals import Guard, Renewals, apart, broken, leases, tell, timeout_ms, wait_s
from broker.client.reply import Reply
from broker.clock import Steady
from broker.entropy import Entropy

if TYPE_CHECKING:
    from broker.client.sync import Line


class Keeper:
    """Renews over connections of its own, one for each pace of leases; its threads end with the client.

    The deadlines have a thread to themselves: a loss is reported on time even where Redis hangs.
    """

    def __init__(
        self, own_line: "Callable[[], Line]", *, notices: Notices, entropy: Entropy, steady_ms: Steady
    ) -> None:
        self._own_line = own_line
        self._notices = notices
        self._entropy = entropy
        self._steady_ms = steady_ms
        self._renewals = Renewals()
        # Taken by itself: where an interrupt comes as the condition is entered, it would be held for good.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._threads: dict[int | None, threading.Thread] = {}
        """By pace; None: watches the deadlines."""
        self._closed = False
        self._pid = os.getpid()

    def keep(self, guard: Guard) -> None:
        """Renew it from now on, and at once where a notice comes.

        Raises:
          ClientClosed: this client is closed.
        """
        with self._lock:
            if self._closed:
                raise ClientClosed("the client is closed")
            pace = self._renewals.keep(guard)
            self._start(None, self._watch)
            self._start(pace, partial(self._renew, pace))
            self._changed.notify_all()
        self._notices.watch(guard.job_id, guard.epoch, partial(self._hurry, guard))

    def drop(self, guard: Guard) -> None:
        """Renew it no more. A renewal of it may be on its way."""
        if self._pid != os.getpid():
            return  # a fork has none of these threads, and maybe a lock that nobody will open
        self._notices.forget(guard.job_id, guard.epoch)
        with self._lock:
            self._renewals.drop(guard)

    def let_go(self, guard: Guard) -> None:
        """Drop it, and wait until no renewal of it is on its way."""
        if self._pid != os.getpid():
            return
        self.drop(guard)
        with self._lock:
            self._changed.wait_for(lambda: not self._renewals.on_its_way(guard))

    def close(self) -> None:
        """End the threads; leases that are still kept are lost. Harmless twice."""
        if self._pid != os.getpid():
            return
        with self._lock:
            self._closed = True
            kept = self._renewals.everything()
            self._changed.notify_all()
        for guard in kept:
            guard.lose(ClientClosed.__name__)
        for thread in self._threads.values():
            thread.join()

    def is_running_me(self) -> bool:
        """Whether this thread is one of those that keep leases: nothing of a user's may run on it."""
        return threading.current_thread() in self._threads.values()

    def _start(self, pace: int | None, target: Callable[[], None]) -> None:
        if pace not in self._threads:
            name = "broker-deadlines" if pace is None else f"broker-renewals-{pace}"
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()  # first: where none can be had, the next lease is to have it tried again
            self._threads[pace] = thread

    def _hurry(self, guard: Guard) -> None:
        with self._lock:
            self._renewals.hurry(guard)
            self._changed.notify_all()

    def _renew(self, pace: int) -> None:
        line = self._own_line()
        try:
            while guards := self._next_round(pace):
                self._carry_out(line, guards)
        finally:
            line.close()

    def _carry_out(self, line: "Line", guards: Sequence[Guard]) -> None:
        answer: Reply | ClientError
        try:
            answer = line.renew_many(leases(guards), timeout_ms=timeout_ms(guards))
        except ClientError as error:
            answer = error
        except Exception as error:  # a mistake of ours in one round must not end the renewals of every lease
            answer = broken(error)
        try:
            tell(guards, answer, jitter=self._entropy.jitter())
        finally:
            with self._lock:
                self._renewals.landed(guards)
                self._changed.notify_all()

    def _next_round(self, pace: int) -> Sequence[Guard]:
        """Wait for what is to be renewed; empty once the client is closed."""
        with self._lock:
            while not self._closed:
                now_ms = self._steady_ms()
                if guards := self._renewals.next_round(pace, now_ms):
                    return guards
                self._wait_until(self._renewals.due_ms(pace), now_ms)
        return ()

    def _watch(self) -> None:
        while not self._closed:
            with self._lock:
                now_ms = self._steady_ms()
                overdue = self._renewals.overdue(now_ms)
                if not overdue and not self._closed:
                    self._wait_until(self._renewals.deadline_ms(), now_ms)
            for guard in overdue:
                with apart(guard):
                    guard.lose("deadline")

    def _wait_until(self, moment_ms: int | None, now_ms: int) -> None:
        self._changed.wait(wait_s(moment_ms, now_ms))
