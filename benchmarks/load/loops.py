"""Closed loops: so many requests outstanding, and each answer lets the next one go out."""

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.load.driver import Order, Tally


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for the request with this number."""

    number: int
    won: bool


class Lines(Protocol):
    """A contestant whose answers come on one list, whatever was asked."""

    def send(self, numbers: Sequence[int]) -> None:
        """Put a request for each number on its way."""

    def receive(self) -> Sequence[Answer]:
        """Wait for answers. None at all, after some seconds, means that requests were lost."""


class AsyncLines(Protocol):
    """The same for asyncio."""

    async def send(self, numbers: Sequence[int]) -> None:
        """Put a request for each number on its way."""

    async def receive(self) -> Sequence[Answer]:
        """Wait for answers. None at all, after some seconds, means that requests were lost."""


class _Book:
    """When each outstanding request was sent."""

    def __init__(self, order: Order, tally: Tally, at_most: int | None = None) -> None:
        numbers = itertools.count(order.first)
        self._numbers = numbers if at_most is None else itertools.islice(numbers, at_most)
        self._sent: dict[int, float] = {}
        self._tally = tally

    def next(self, count: int) -> list[int]:
        numbers = list(itertools.islice(self._numbers, count))
        now = time.perf_counter()
        if len(numbers) < count:
            self._tally.close(now)
        self._sent.update(dict.fromkeys(numbers, now))
        return numbers

    def settle(self, answers: Sequence[Answer]) -> int:
        """How many requests may go out for these answers."""
        if not answers:
            raise SystemExit(f"{len(self._sent)} requests got no answer")
        now = time.perf_counter()
        settled = 0
        for answer in answers:
            sent = self._sent.pop(answer.number, None)
            if sent is not None:  # else a second answer to one request, which some queues give
                settled += 1
                self._tally.note(sent, now, won=answer.won)
        return settled if self._tally.going(now) else 0

    @property
    def outstanding(self) -> bool:
        return bool(self._sent)


def drive_lines(order: Order, tally: Tally, lines: Lines, *, at_most: int | None = None) -> None:
    """Run one window over a list of answers; it ends early after `at_most` requests."""
    book = _Book(order, tally, at_most)
    tally.open()
    lines.send(book.next(order.outstanding))
    while book.outstanding:
        free = book.settle(lines.receive())
        if numbers := book.next(free):
            lines.send(numbers)


async def drive_async_lines(order: Order, tally: Tally, lines: AsyncLines) -> None:
    """Run one window over a list of answers, in asyncio."""
    book = _Book(order, tally)
    tally.open()
    await lines.send(book.next(order.outstanding))
    while book.outstanding:
        free = book.settle(await lines.receive())
        if numbers := book.next(free):
            await lines.send(numbers)


async def drive_async_calls(order: Order, tally: Tally, calls: Iterable[Callable[[], Awaitable[bool]]]) -> None:
    """Run one window of calls that each wait for their own answer; ends early where `calls` runs out."""
    source: Iterator[Callable[[], Awaitable[bool]]] = iter(calls)

    async def one_after_the_other() -> None:
        while tally.going(time.perf_counter()):
            call = next(source, None)
            if call is None:
                tally.close(time.perf_counter())
                return
            sent = time.perf_counter()
            won = await call()
            tally.note(sent, time.perf_counter(), won=won)

    tally.open()
    await asyncio.gather(*(one_after_the_other() for _ in range(order.outstanding)))


def drive_calls(order: Order, tally: Tally, calls: Iterable[Callable[[], bool]]) -> None:
    """The same with a thread for each outstanding request (none for a single one)."""
    turns = _Turns(tally, iter(calls))
    tally.open()
    if order.outstanding == 1:
        turns.take()
        return
    threads = [threading.Thread(target=turns.take_or_fail, daemon=True) for _ in range(order.outstanding)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if turns.failures:
        raise turns.failures[0]


class _Turns:
    """Calls for threads to make, one after the other."""

    def __init__(self, tally: Tally, source: Iterator[Callable[[], bool]]) -> None:
        self.failures: list[Exception] = []
        self._tally = tally
        self._source = source
        self._taking = threading.Lock()

    def take_or_fail(self) -> None:
        """Make calls; a failure is kept, since a thread's own would only be printed."""
        try:
            self.take()
        except Exception as error:
            self.failures.append(error)

    def take(self) -> None:
        """Make calls until the window is over."""
        while (call := self._next()) is not None:
            sent = time.perf_counter()
            won = call()
            now = time.perf_counter()
            with self._taking:
                self._tally.note(sent, now, won=won)

    def _next(self) -> Callable[[], bool] | None:
        with self._taking:
            if not self._tally.going(time.perf_counter()):
                return None
            call = next(self._source, None)
            if call is None:
                self._tally.close(time.perf_counter())
            return call
