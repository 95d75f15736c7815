"""Keeps the leases of one client, for asyncio: the twin of `Keeper`, with tasks for threads."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from broker.client.errors import ClientClosed, ClientError
from broker.client.notices import Notices
from broker.client.renewals import Guard, Renewals, apart, broken, leases, tell, timeout_ms, wait_s
from broker.client.reply import Reply
from broker.client.standing import Ending, StandingTask
from broker.clock import Steady
from broker.entropy import Entropy

if TYPE_CHECKING:
    from broker.client.aio import AsyncLine


class AsyncKeeper:
    """As `Keeper`. Its tasks end with the client."""

    def __init__(
        self, own_line: "Callable[[], AsyncLine]", *, notices: Notices, entropy: Entropy, steady_ms: Steady
    ) -> None:
        self._own_line = own_line
        self._notices = notices
        self._entropy = entropy
        self._steady_ms = steady_ms
        self._renewals = Renewals()
        self._waiting: list[asyncio.Event] = []
        """In the order they came, which is the order they are woken in."""
        self._tasks: dict[int | None, StandingTask] = {}
        """By pace; None: watches the deadlines."""
        self._closed = False
        self._end_tasks = Ending(self._ended)

    def keep(self, guard: Guard) -> None:
        """Renew it from now on, and at once where a notice comes.

        Raises:
          ClientClosed: this client is closed.
        """
        if self._closed:
            raise ClientClosed("the client is closed")
        pace = self._renewals.keep(guard)
        self._start(None, self._watch)
        self._start(pace, partial(self._renew, pace))
        self._notices.watch(guard.job_id, guard.epoch, partial(self._hurry, guard))
        self._changed()

    def drop(self, guard: Guard) -> None:
        """Renew it no more. A renewal of it may be on its way."""
        self._notices.forget(guard.job_id, guard.epoch)
        self._renewals.drop(guard)

    async def let_go(self, guard: Guard) -> None:
        """Drop it, and wait until no renewal of it is on its way."""
        self.drop(guard)
        with self._notified() as changed:
            while self._renewals.on_its_way(guard):
                changed.clear()
                await changed.wait()

    async def close(self) -> None:
        """End the tasks; leases that are still kept are lost. Harmless twice."""
        self._closed = True
        for guard in self._renewals.everything():
            guard.lose(ClientClosed.__name__)
        await self._end_tasks()

    async def _ended(self) -> None:
        await asyncio.gather(*(task.end() for task in self._tasks.values()))

    def _start(self, pace: int | None, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if pace not in self._tasks:
            name = "broker-deadlines" if pace is None else f"broker-renewals-{pace}"
            self._tasks[pace] = StandingTask(loop, name=name, wanted=lambda: self._renewals.any)
        self._tasks[pace].begin()

    def _hurry(self, guard: Guard) -> None:
        self._renewals.hurry(guard)
        self._changed()

    async def _renew(self, pace: int) -> None:
        line = self._own_line()
        try:
            with self._notified() as changed:
                while True:
                    changed.clear()
                    now_ms = self._steady_ms()
                    if guards := self._renewals.next_round(pace, now_ms):
                        await self._carry_out(line, guards)
                    else:
                        await self._wait_until(self._renewals.due_ms(pace), now_ms, changed)
        finally:
            await line.close()

    async def _carry_out(self, line: "AsyncLine", guards: Sequence[Guard]) -> None:
        answer: Reply | ClientError
        try:
            answer = await line.renew_many(leases(guards), timeout_ms=timeout_ms(guards))
        except ClientError as error:
            answer = error
        except Exception as error:  # a mistake of ours in one round must not end the renewals of every lease
            answer = broken(error)
        finally:
            self._renewals.landed(guards)
            self._changed()
        tell(guards, answer, jitter=self._entropy.jitter())

    async def _watch(self) -> None:
        with self._notified() as changed:
            while True:
                changed.clear()
                now_ms = self._steady_ms()
                for guard in self._renewals.overdue(now_ms):
                    with apart(guard):
                        guard.lose("deadline")
                await self._wait_until(self._renewals.deadline_ms(), now_ms, changed)

    async def _wait_until(self, moment_ms: int | None, now_ms: int, changed: asyncio.Event) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s(moment_ms, now_ms)):
                await changed.wait()

    @contextmanager
    def _notified(self) -> Iterator[asyncio.Event]:
        """An event that is set whenever something has changed."""
        changed = asyncio.Event()
        self._waiting.append(changed)
        try:
            yield changed
        finally:
            self._waiting.remove(changed)

    def _changed(self) -> None:
        for changed in self._waiting:
            changed.set()
