"""One timer for many waits: each ends at its time, and none before."""

import asyncio
from functools import partial

from broker.client.alarm import Alarm
from broker.clock import monotonic_ms


def test_waits_end_in_the_order_of_their_times_however_they_were_added() -> None:
    async def wait() -> list[int]:
        alarm, ended = Alarm(), list[int]()
        now_ms = monotonic_ms()
        wakes: list[asyncio.Future[None]] = []

        def note(due_ms: int, _: "asyncio.Future[None]") -> None:
            ended.append(due_ms)

        for due_ms in (30, 10, 20, 10):
            wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            wake.add_done_callback(partial(note, due_ms))
            alarm.at(now_ms + due_ms, now_ms, wake)
            wakes.append(wake)
        await asyncio.wait(wakes, timeout=10)
        return ended

    assert asyncio.run(wait()) == [10, 10, 20, 30]


def test_whoever_is_woken_finds_its_time_over() -> None:
    async def wait() -> int:
        alarm, wake = Alarm(), asyncio.get_running_loop().create_future()
        due_ms = monotonic_ms() + 5
        alarm.at(due_ms, due_ms - 5, wake)
        await asyncio.wait_for(wake, 10)
        return monotonic_ms() - due_ms

    assert min(asyncio.run(wait()) for _ in range(5)) >= 0


def test_a_wait_that_ended_by_itself_is_left_alone_and_holds_nobody_up() -> None:
    async def wait() -> str:
        alarm, loop = Alarm(), asyncio.get_running_loop()
        answered: asyncio.Future[str] = loop.create_future()
        late: asyncio.Future[None] = loop.create_future()
        now_ms = monotonic_ms()
        alarm.at(now_ms + 5, now_ms, answered)  # type: ignore[arg-type]  # a result of its own shows that it is kept
        alarm.at(now_ms + 10, now_ms, late)
        answered.set_result("the answer")
        await asyncio.wait_for(late, 10)
        return answered.result()

    assert asyncio.run(wait()) == "the answer"


def test_a_wait_that_was_called_off_is_left_alone() -> None:
    async def wait() -> bool:
        alarm, loop = Alarm(), asyncio.get_running_loop()
        left: asyncio.Future[None] = loop.create_future()
        late: asyncio.Future[None] = loop.create_future()
        now_ms = monotonic_ms()
        alarm.at(now_ms + 5, now_ms, left)
        alarm.at(now_ms + 10, now_ms, late)
        alarm.off(left)
        await asyncio.wait_for(late, 10)
        return left.done()

    assert not asyncio.run(wait())
