"""Reads the list of answers with redis-py, the same for every contestant that answers on one."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from benchmarks.load.loops import Answer
from benchmarks.load.record import DRAIN, REPLIES, REPLY_WAIT_S, parse_answers


class ReplyList:
    """`send` is the contestant's own; answers are waited for, then drained, in one round trip."""

    def __init__(self, redis: Any, send: Callable[[Sequence[int]], None]) -> None:
        self.send = send
        self._redis = redis

    def receive(self) -> list[Answer]:
        """All the answers there are, at least one; none after a while means that requests were lost."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.blpop(REPLIES, REPLY_WAIT_S)
            pipe.lpop(REPLIES, DRAIN)
            first, rest = pipe.execute()
        return parse_answers(([first[1]] if first else []) + (rest or []))


class AsyncReplyList:
    """The same for asyncio."""

    def __init__(self, redis: Any, send: Callable[[Sequence[int]], Awaitable[None]]) -> None:
        self._redis = redis
        self._send = send

    async def send(self, numbers: Sequence[int]) -> None:
        """Put a request for each number on its way."""
        await self._send(numbers)

    async def receive(self) -> list[Answer]:
        """All the answers there are, at least one; none after a while means that requests were lost."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.blpop(REPLIES, REPLY_WAIT_S)
            pipe.lpop(REPLIES, DRAIN)
            first, rest = await pipe.execute()
        return parse_answers(([first[1]] if first else []) + (rest or []))
