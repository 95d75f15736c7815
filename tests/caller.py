"""One client of the broker as seen on the wire: requests as they travel, and replies as they come. No client code."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, cast
from uuid import uuid4

import redis

from broker import messages, queues, replies
from broker.clock import monotonic_ms
from broker.messages import Envelope, Request
from broker.queues import Wire

Reply = Mapping[str, Any]
_BLOCK_MS = 1_000
"""Below the connection's own time-out."""


class Caller:
    """A factory with one reply channel. Each request gets an id of its own unless told which."""

    def __init__(
        self, connection: redis.Redis, factory: str = "factory", *, instance: str = "x", incarnation: str = "start-1"
    ) -> None:
        self.redis = connection
        self.factory = factory
        self.instance = instance
        self.incarnation = incarnation
        self.channel = replies.reply_key(factory, instance)
        self._early: dict[str, Reply] = {}
        self.notices: list[Reply] = []
        """What came without having been asked for."""

    def make(self, op: str, *, request_id: str | None = None, deadline_ms: int | None = None, attempt: int = 1,
             **body: Any) -> Request:  # fmt: skip
        """A request of this factory; `body` holds the operation's own fields."""
        envelope = {
            "op": op,
            "request_id": request_id or uuid4().hex,
            "attempt": attempt,
            "factory_id": self.factory,
            "incarnation": self.incarnation,
            "instance": self.instance,
            "deadline_ms": deadline_ms,
            "body": body,
        }
        return messages.REQUESTS.validate_python(envelope)

    def send(self, *requests: Envelope, wire: Wire = "rq") -> None:
        """Put requests on their queues, in one go."""
        with self.redis.pipeline(transaction=False) as pipe:
            for request in requests:
                queues.enqueue(pipe, request, wire=wire)
            pipe.execute()

    def replies(self, *requests: Envelope, deadline_ms: int = 20_000) -> list[Reply]:
        """The reply to each of these requests, in their order."""
        return self.replies_to([request.request_id for request in requests], deadline_ms=deadline_ms)

    def replies_to(self, ids: Iterable[str], *, deadline_ms: int = 20_000) -> list[Reply]:
        """The reply to each of these request ids, in their order."""
        wanted = list(ids)
        until_ms = monotonic_ms() + deadline_ms
        self.collect()
        while missing := [id for id in wanted if id not in self._early]:
            left_ms = until_ms - monotonic_ms()
            assert left_ms > 0, f"after {deadline_ms} ms {self.factory} still lacks replies to {missing}"
            self._wait_for_one(min(left_ms, _BLOCK_MS))
        return [self._early.pop(id) for id in wanted]

    def collect(self) -> int:
        """Read what is on the channel; how many replies are waiting to be asked for."""
        self._sort(cast(list[bytes], self.redis.lpop(self.channel, 1_000) or []))
        return len(self._early)

    def _wait_for_one(self, wait_ms: float) -> None:
        """Blocks: thousands of polls a second, of a herd of callers, would leave the broker little of the machine."""
        popped = cast(tuple[bytes, bytes] | None, self.redis.blpop([self.channel], wait_ms / 1_000))
        if popped is not None:
            self._sort(popped[1:])
            self.collect()

    def _sort(self, texts: Iterable[bytes]) -> None:
        for text in texts:
            reply = json.loads(text)
            if "notice" in reply:
                self.notices.append(reply)
            else:
                self._early[reply["request_id"]] = reply

    def forget(self) -> None:
        """Drop every reply nobody has asked for."""
        self.redis.delete(self.channel)
        self._early.clear()

    def has_reply(self, request: Envelope) -> bool:
        """Whether this request has been answered; its reply is kept."""
        self.collect()
        return request.request_id in self._early

    def ask(self, op: str, *, wire: Wire = "rq", **fields: Any) -> Reply:
        """Send one request and wait for its reply."""
        request = self.make(op, **fields)
        self.send(request, wire=wire)
        return self.replies(request)[0]

    def submit(self, *jobs: str, **fields: Any) -> None:
        """Submit jobs and see that each was taken."""
        requests = [self.make("submit", job_id=job, **fields) for job in jobs]
        self.send(*requests)
        answers = {reply["answer"] for reply in self.replies(*requests)}
        assert answers == {"ok"}, answers

    def hold(self, job_id: str, **fields: Any) -> dict[str, Any]:
        """Claim one job; what its holder proves itself with."""
        reply = self.ask("claim", job_id=job_id, **fields)
        assert reply["answer"] == "granted", reply
        return {"job_id": job_id, "epoch": reply["body"]["epoch"], "token": reply["body"]["token"]}
