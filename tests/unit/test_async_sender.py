"""What is posted goes out once, and nothing goes out where nothing was posted."""

import asyncio

from broker.client.call import Address, BrokerTime, Call
from broker.client.connection_async import AsyncSender, Batch
from broker.entropy import SystemEntropy
from broker.messages import Claim

ADDRESS = Address(factory_id="f", incarnation="i", instance="x")


class Noting(AsyncSender):
    """Notes what would be sent."""

    def __init__(self) -> None:
        super().__init__("redis://localhost:1", wire="intake", password=None)
        self.batches: list[Batch] = []

    def _send(self, batch: Batch) -> None:
        self.batches.append(batch)
        asyncio.get_running_loop().call_soon(self._ended, batch, None)


def post(sender: AsyncSender) -> None:
    call = Call(Claim, {}, ADDRESS, request_id=None, timeout_ms=1_000, now_ms=0, entropy=SystemEntropy())
    sender.post(call.next_attempt(0, BrokerTime()), call)


def test_what_is_posted_in_one_turn_goes_together() -> None:
    async def scene() -> list[int]:
        sender = Noting()
        for _ in range(3):
            post(sender)
        await asyncio.sleep(0)
        post(sender)
        await sender.sent()
        return [len(batch.posted) for batch in sender.batches]

    assert asyncio.run(scene()) == [3, 1]


def test_waiting_for_what_was_posted_sends_it_once_and_nothing_after_it() -> None:
    async def scene() -> list[int]:
        sender = Noting()
        post(sender)
        await sender.sent()
        await asyncio.sleep(0)  # the turn it would have gone out in
        await sender.sent()
        return [len(batch.posted) for batch in sender.batches]

    assert asyncio.run(scene()) == [1]


def test_waiting_for_what_was_posted_does_not_wait_for_what_is_posted_later() -> None:
    """Where there is always something under way, whoever closes or gives a lease back would wait for ever."""

    class Slow(Noting):
        def _send(self, batch: Batch) -> None:
            self.batches.append(batch)

    async def scene() -> None:
        sender = Slow()
        post(sender)
        waiting = asyncio.ensure_future(sender.sent())
        await asyncio.sleep(0)
        post(sender)
        await asyncio.sleep(0)
        first, _ = sender.batches
        sender._ended(first, None)
        await asyncio.wait_for(waiting, 10)

    asyncio.run(scene())
