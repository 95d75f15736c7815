"""Connections to Redis that lose, delay, double and reorder: a broker process's, and a client's in both directions."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Never

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from broker import queues
from broker.client.connection import DRAIN_MAX, LOOK_S, MaybeSent, NotSent
from broker.client.connection_async import AsyncListener, AsyncSender, Batch
from broker.queues import Message, Wire
from tests.simulation.faults import Dice
from tests.simulation.loop import SimulatedLoop
from tests.simulation.process import Process
from tests.simulation.redis_side.server import Server
from tests.simulation.timeline import Timeline

SLOW_MS = 8_000
LATE_MS = 9_000
BLOCK_MS = 5_000
NOWHERE = "redis://nowhere.invalid"


class RedisHost:
    """The machine that Redis runs on; now and then it can't be reached."""

    def __init__(self, server: Server, timeline: Timeline, dice: Dice) -> None:
        self.server = server
        self.timeline = timeline
        self.dice = dice
        self.life = 1
        """Which of its lives this is: connections of an earlier one are broken."""
        self._down_until_ms = 0.0

    def go_down(self, ms: float) -> None:
        """Break every connection, and refuse new ones for a while."""
        self.life += 1
        self._down_until_ms = self.timeline.now_ms + ms

    @property
    def down(self) -> bool:
        """Whether nobody reaches it now."""
        return self.timeline.now_ms < self._down_until_ms

    def execute(self, command: Sequence[Any]) -> Any:
        """One command's reply; an error as a value, as in a pipeline."""
        try:
            return self.server.execute(command)
        except ResponseError as error:
            return error.with_traceback(None)  # whose frames would keep the whole world alive

    def pipeline(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Replies to commands that nobody comes in between of."""
        return [self.execute(command) for command in commands]


class BrokerLine:
    """How a worker or a sweep reaches Redis."""

    def __init__(self, host: RedisHost, process: Process) -> None:
        self._host = host
        self._process = process
        self._life = host.life

    def carry(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Replies to `commands`.

        Raises:
          RedisConnectionError: the line broke. Of the commands all, none, or the first few were carried out, or all
            will be.
        """
        host, random = self._host, self._host.dice.random
        fault = host.dice.roll("redis")
        self._process.wait(random.uniform(0, SLOW_MS) if fault == "redis_slow" else random.uniform(0.1, 2))
        if self._broken() or fault == "redis_refused":
            raise RedisConnectionError("simulated: connection refused")
        if fault == "redis_late":
            self._carried_late(commands)
            raise RedisConnectionError("simulated: the line broke, and Redis has yet to read what was sent")
        at = random.randrange(len(commands) + 1) if fault == "redis_cut" or random.random() < 0.1 else 0
        replies = host.pipeline(commands[:at]) if at else []
        if fault == "redis_cut":
            raise RedisConnectionError("simulated: the line broke in a pipeline")
        if at:  # others come in between: a pipeline is no transaction
            self._process.wait(random.uniform(0.1, 20))
            if self._broken():
                raise RedisConnectionError("simulated: the line broke in a pipeline")
            replies += host.pipeline(commands[at:])
        else:
            replies = [host.execute(command) for command in commands]
        if fault == "redis_reply_lost":
            raise RedisConnectionError("simulated: the reply was lost")
        return replies

    def _carried_late(self, commands: Sequence[Sequence[Any]]) -> None:
        host, life = self._host, self._host.life

        def late() -> None:
            if life == host.life:
                host.pipeline(commands)

        host.timeline.after(host.dice.random.uniform(1, LATE_MS), late)

    def _broken(self) -> bool:
        host = self._host
        life, self._life = self._life, host.life
        return host.down or life != host.life


class ClientSender(AsyncSender):
    """Production's sender, whose connection leads into the simulation."""

    def __init__(self, host: RedisHost, loop: SimulatedLoop, wire: Wire, sent: Callable[[str], None]) -> None:
        super().__init__(NOWHERE, wire=wire, password=None)  # its pool is never asked for a connection
        self._host = host
        self._loop = loop
        self._judge_sent = sent

    def another(self) -> "ClientSender":
        return ClientSender(self._host, self._loop, self._wire, self._judge_sent)

    async def server_ms(self, channel: str) -> int | None:  # noqa: ARG002  # here everybody may read
        await self._reach()
        return self._host.server.keys.now_ms()

    async def close(self) -> None:
        await self.sent()

    def _send(self, batch: Batch) -> None:
        task = asyncio.create_task(self._carry(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, batch: Batch) -> None:
        try:
            await self._put(batch.signed(self._sign))
        except Exception as error:
            self._ended(batch, error)
        else:
            self._ended(batch, None)

    async def _put(self, messages: Sequence[Message]) -> None:
        await self._reach()
        for message in messages:
            self._judge_sent(message.text)
        random, timeline = self._host.dice.random, self._host.timeline
        match self._host.dice.roll("send"):
            case "send_refused":
                raise NotSent("simulated: connection refused")
            case "request_lost":
                raise MaybeSent("simulated: the connection broke on the way there")
            case "request_late":
                timeline.after(random.uniform(1, LATE_MS), lambda: self._push(messages))
                raise MaybeSent("simulated: still on its way")
            case "request_doubled":
                timeline.after(random.uniform(0, LATE_MS), lambda: self._push(messages))
        self._push(messages)

    async def _reach(self) -> None:
        await asyncio.sleep(self._host.dice.random.uniform(0.0002, 0.003))
        if self._host.down or not self._loop.alive:
            raise NotSent("simulated: Redis can't be reached")

    def _push(self, messages: Sequence[Message]) -> None:
        self._host.pipeline(queues.commands(messages, self._wire))


class ClientListener(AsyncListener):
    """Production's listener, whose connection leads into the simulation."""

    def __init__(self, host: RedisHost, loop: SimulatedLoop, key: str) -> None:
        super().__init__(NOWHERE, key, password=None)  # its pool is never asked for a connection
        self._host = host
        self._loop = loop
        self._name = key.encode()
        self._arrived: list[bytes] = []
        self._waiting: asyncio.Future[None] | None = None
        self._blocking = False
        self._life = host.life
        self._lost = False

    async def listen(self, deliver: Callable[[list[bytes]], None]) -> Never:
        while True:
            try:
                texts = await self._receive()
            except RedisConnectionError:
                self._lost = True
                raise
            self._lost = False
            deliver(texts)

    async def _receive(self) -> list[bytes]:
        life, self._life = self._life, self._host.life
        if self._host.down or life != self._life:
            self._blocking = False
            await asyncio.sleep(0.05)
            raise RedisConnectionError("simulated: Redis can't be reached")
        if not self._blocking:
            self._pop()
        if not self._arrived:
            self._block()
            await self._arrival()
        return self._through_the_net()

    async def _arrival(self) -> None:
        """Of something, or the end of the time that is waited for it. As `asyncio.wait`, with less about it."""
        self._waiting = waiting = self._loop.create_future()
        timer = self._loop.call_later(LOOK_S if self._lost else BLOCK_MS / 1000, _release, waiting)
        try:
            await waiting
        finally:
            timer.cancel()

    async def close(self) -> None:
        self._arrived = []

    def _block(self) -> None:
        """As BLPOP: the server takes replies off the list as they come, whether anybody still listens or not."""
        if not self._blocking:
            self._blocking = True
            life = self._host.life
            self._host.server.watch(self._name, lambda: self._served(life))

    def _served(self, life: int) -> None:
        if life != self._host.life:
            return  # of a connection that is gone
        self._blocking = False
        self._pop()
        self._wake()

    def _pop(self) -> None:
        self._arrived += self._host.execute(("LPOP", self._name, DRAIN_MAX)) or []

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done() and self._loop.alive:
            self._loop.call_soon(_release, waiting)

    def _through_the_net(self) -> list[bytes]:
        arrived, self._arrived = self._arrived, []
        dice = self._host.dice
        through: list[bytes] = []
        for text in arrived:
            match dice.roll("receive"):
                case "reply_lost":
                    continue
                case "reply_late":
                    self._later(text)
                    continue
                case "reply_doubled":
                    self._later(text)
                case "channel_broken":
                    raise RedisConnectionError("simulated: the channel broke")
            through.append(text)
        if len(through) > 1 and dice.random.random() < 0.3:
            dice.random.shuffle(through)
        return through

    def _later(self, text: bytes) -> None:
        def arrive() -> None:
            self._arrived.append(text)
            self._wake()

        self._host.timeline.after(self._host.dice.random.uniform(1, LATE_MS), arrive)


def _release(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
