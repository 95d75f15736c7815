"""Requests out, replies in, for asyncio: one reader task hands each reply to the call that waits for it."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from broker.backoff import Backoff
from broker.client.alarm import Alarm
from broker.client.call import Address, BrokerTime, Call, release_of
from broker.client.connection import MaybeSent, NotAccepted, NotHeard, NotSent, shut_out
from broker.client.connection_async import AsyncListener, AsyncSender
from broker.client.errors import ClientClosed
from broker.client.logger import Logger
from broker.client.pending import LATE_MS, Pending
from broker.client.reply import Reply, parse_reply
from broker.client.standing import Ending, StandingTask
from broker.clock import Steady, monotonic_ms
from broker.entropy import Entropy
from broker.failures import trace

if TYPE_CHECKING:
    from broker.history import Recorder

log = Logger(__name__)


class AsyncExchange:
    """The twin of `Exchange`, step for step; a call may be cancelled at any of its awaits."""

    def __init__(
        self,
        address: Address,
        listener: AsyncListener,
        sender: AsyncSender,
        *,
        entropy: Entropy,
        attempt_ms: int,
        steady_ms: Steady = monotonic_ms,
        read: Callable[[bytes], Reply] = parse_reply,
        history: "Recorder | None" = None,
    ) -> None:
        self.address = address
        self.history = history
        self.steady_ms = steady_ms
        self.broker_time = BrokerTime()
        self.entropy = entropy
        self._listener = listener
        self._sender = sender
        self._attempt_ms = attempt_ms
        self._pending = Pending(self.broker_time, steady_ms, read=read)
        self.notices = self._pending.notices
        self._alarm = Alarm(steady_ms)
        self._lost = Backoff(entropy)
        self._missed = False
        """The reply channel was lost, and those who wait have not been told since that it is read again."""
        self._closed = False
        self._pid = os.getpid()
        self._reader = StandingTask(self._read, name="broker-replies", wanted=lambda: self._pending.wanted)
        self._loop: asyncio.AbstractEventLoop | None = None
        """None: not opened."""
        self._giving_back: set[asyncio.Task[None]] = set()
        self._stop = Ending(self._stopped)

    async def open(self) -> None:
        """Learn broker time and begin to read replies. Twice is harmless.

        Raises:
          BrokerUnavailable: Redis can't be reached, refuses the password, or to show replies.
          ClientClosed: it is closed, or was opened elsewhere.
        """
        if self._loop is not None or self._closed:
            self.check_open()
            return
        sent_ms = self.steady_ms()
        try:
            server_ms = await self._sender.server_ms(self.address.channel)
        except (NotSent, NotAccepted, NotHeard) as error:
            raise shut_out(error, self.address.factory_id) from error
        if server_ms is not None:
            self.broker_time.learn(server_ms, sent_ms=sent_ms, received_ms=self.steady_ms())
        self._loop = asyncio.get_running_loop()
        self._reader.begin()

    async def close(self, *, settle: bool = True) -> None:
        """Settle what was given up, and stop reading; whoever still waits gets ClientClosed. Twice is harmless.

        Raises:
          ClientClosed: it was opened in another event loop, and is as before.
        """
        if self._pid != os.getpid():
            return
        if not self._closed:
            self._check_loop()
        try:
            if settle and not self._closed:
                await self.settle()
        finally:
            self._closed = True
            await self._stop()

    async def settle(self, within_ms: int | None = None) -> bool:
        """Wait until each claim that was given up is answered, and what it got is given back. False: they are not.

        Without `within_ms` as long as they may be granted, which is until their own time is over.
        """
        self._check_loop()
        await self._sender.sent()
        now_ms = self.steady_ms()
        until_ms, again_ms = None if within_ms is None else now_ms + within_ms, now_ms + self._attempt_ms
        while not self._closed and (calls := self._pending.given_up()):
            now_ms = self.steady_ms()
            if until_ms is not None and now_ms >= until_ms:
                return False
            if now_ms >= again_ms:
                again_ms = now_ms + self._attempt_ms
                self._withdraw(calls)
            self._reader.begin()
            wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            for call in calls:
                call.wake = wake
            over_ms = max(call.until_ms for call in calls) + LATE_MS
            await self._within(min(again_ms, over_ms, until_ms or again_ms), now_ms, wake)
        return True

    async def _stopped(self) -> None:
        async with AsyncExitStack() as last:  # each, also where the loop ends, which cancels this
            if self.history is not None:
                last.callback(self.history.close)
            last.push_async_callback(self._sender.close)
            last.push_async_callback(self._listener.close)
            last.push_async_callback(self._reader.end)
            await self._reader.end()
            for call in self._pending.close():
                call.trouble = call.closed()
                call.woken()
            if self._giving_back:
                await asyncio.wait(self._giving_back)

    def check_open(self, call: Call | None = None) -> None:
        """Raises ClientClosed where this client can't be used, for this `call` or at all."""
        if self._pid != os.getpid():
            raise ClientClosed("this client was made before a fork; connect a new one in the child process")
        if self._loop is None and not self._closed:
            raise ClientClosed("the client was never connected: `async with AsyncClient.connect(…)`")
        if self._closed:
            raise ClientClosed("the client is closed") if call is None else call.closed()
        self._check_loop()

    def _check_loop(self) -> None:
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise ClientClosed("this client was opened in another event loop; connect a new one in this one")

    async def carry_out(self, calls: Sequence[Call], sender: AsyncSender) -> None:
        """Send `calls` until each has its answer or its time is over. The answers are left in the calls.

        Raises:
          BrokerUnavailable: Redis refuses requests. Nothing was sent.
          ClientClosed: the client was closed.
        """
        ended = await asyncio.gather(*(self.carry(call, sender) for call in calls), return_exceptions=True)
        for outcome in ended:
            if outcome is not None:
                raise outcome

    async def carry(self, call: Call, sender: AsyncSender) -> None:
        """The same for one call."""
        backoff: Backoff | None = None
        abandoned = True
        try:
            self.check_open(call)
            loop = asyncio.get_running_loop()
            self._reader.begin()
            while (now_ms := self.steady_ms()) < call.until_ms:
                wake: asyncio.Future[None] = loop.create_future()
                self._pending.expect(call, wake)
                sender.post(call.next_attempt(now_ms, self.broker_time), call)
                self._alarm.at(call.attempt_ends_ms(now_ms, self._attempt_ms, None), now_ms, wake)
                try:
                    await wake
                finally:
                    self._alarm.off(wake)
                if call.settled:
                    break
                backoff = backoff or Backoff(self.entropy)
                if (trouble := call.trouble) is not None:
                    call.trouble = None
                    await self._after(trouble, call, backoff.next_s())
                elif call.reply is not None:
                    await asyncio.sleep(backoff.next_s())  # an unknown outcome: ask again, but not at once
                self.check_open(call)
            abandoned = False
        finally:
            self._pending.forget(call, abandoned=abandoned)
            if abandoned and call.reply is not None:
                for grant in call.reply.grants:
                    self._give_back(grant)
            if abandoned and call.waits and not self._closed:
                self._in_a_task_of_its_own(self._give_up(call), name="broker-give-up")

    async def _within(self, ends_ms: int, now_ms: int, wake: "asyncio.Future[None]") -> None:
        """Wait for `wake`, which is completed at `ends_ms` if nothing else does."""
        self._alarm.at(ends_ms, now_ms, wake)
        try:
            await wake
        finally:
            self._alarm.off(wake)

    async def _after(self, trouble: Exception, call: Call, pause_s: float) -> None:
        """Pause before the next attempt; an answer to an earlier one ends the pause.

        Raises:
          BrokerUnavailable, BrokerTimeout: Redis does not take requests, and would not take the next one.
        """
        if isinstance(trouble, NotAccepted):
            raise call.refused(str(trouble), trouble.advice) from trouble
        if not isinstance(trouble, NotSent | MaybeSent):
            raise trouble
        now_ms = self.steady_ms()
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.expect(call, wake)
        await self._within(call.attempt_ends_ms(now_ms, self._attempt_ms, pause_s), now_ms, wake)

    async def _read(self) -> None:
        """The reader task: until closed, whatever happens."""
        while not self._closed:
            try:
                await self._listener.listen(self._deliver)
            except (RedisError, OSError) as error:
                log.warning("reply_channel_lost", error=str(error))
                self._missed = True
                self._pending.lost(error)
                await asyncio.sleep(self._lost.next_s())
            except Exception:  # a mistake of ours: without a reader no call would ever be answered again
                log.error("reading_failed", exception=trace())
                await asyncio.sleep(self._lost.next_s())

    def _deliver(self, texts: Sequence[bytes]) -> None:
        self._lost.reset()
        for text in texts:
            try:
                surplus = self._pending.deliver(text)
            except Exception:  # a reply that nobody foresaw must not leave every other one unread
                log.error("reply_failed", exception=trace())
                continue
            for grant in surplus:
                self._give_back(grant)
        if self._missed:
            self._missed = False
            self._pending.heard_again()
        self._sender.flush_soon()  # behind those who have just been woken: what they ask next goes with one write

    def _give_back(self, grant: Reply) -> None:
        """Release a lease that nobody waits for any more, in a task of its own: its caller may be cancelled."""
        self._in_a_task_of_its_own(self._release(grant), name="broker-give-back")

    def _in_a_task_of_its_own(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._giving_back.add(task)
        task.add_done_callback(self._giving_back.discard)

    async def _give_up(self, call: Call) -> None:
        await self._sender.sent()
        self._withdraw([call])

    def _withdraw(self, calls: Sequence[Call]) -> None:
        """End the waits of claims that were given up. Where that fails, they last until their time is over."""
        now_ms = self.steady_ms()
        for call in calls:
            if not self._closed and (message := call.withdrawal(now_ms, self.broker_time)) is not None:
                self._sender.post(message, call)

    async def _release(self, grant: Reply) -> None:
        now_ms = self.steady_ms()
        release = release_of(grant, self.address, now_ms=now_ms, entropy=self.entropy)
        log.info("unwanted_lease_released", job=grant.body["job_id"], epoch=grant.body["epoch"])
        self._sender.post(release.next_attempt(now_ms, self.broker_time), release)
        await self._sender.sent()
        if release.trouble is not None:
            log.warning("unwanted_lease_not_released", job=grant.body["job_id"], error=str(release.trouble))
