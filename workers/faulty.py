"""A runtime whose store and Redis pass fault points: put around the real ones, so that these know nothing of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from msgspec import structs
from redis import Redis
from redis.client import Pipeline

from broker.replies import REPLY_PREFIX
from datastore import Datastore
from datastore.confirm import WRITE_ID
from datastore.interface import (
    Ahead,
    Body,
    CreateResult,
    Expected,
    Filter,
    Page,
    Patch,
    ReadResult,
    UpdateResult,
    nothing_ahead,
)
from workers.fault_points import At
from workers.runtime import Runtime

_LEASE_ALONE = frozenset({"lease", "updated_ms", WRITE_ID})


def with_faults(runtime: Runtime, at: At) -> Runtime:
    """The same runtime, passing points at each access to the store and at each delivery of replies."""
    store = FaultyStore(runtime.store, at)
    connection = FaultyRedis(runtime.connection, at)
    return replace(
        runtime, store=store, connection=connection, context=structs.replace(runtime.context, store=store), at=at
    )


class FaultyStore:
    """`Datastore` that passes a point before and after each access."""

    def __init__(self, inner: Datastore, at: At) -> None:
        self._inner = inner
        self._at = at

    @property
    def concurrency(self) -> int:
        return self._inner.concurrency

    def read(self, id: str, partition_key: str) -> ReadResult:
        self._at("reading")
        result = self._inner.read(id, partition_key)
        self._at("read")
        return result

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        with self._around_write(id):
            return self._inner.create(id, partition_key, body)

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        with self._around_write(id, renewal=_LEASE_ALONE.issuperset(patch)):
            return self._inner.update_if_match(id, partition_key, expected, patch)

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        page = self._inner.find(filter, limit, cursor)
        self._at("searched")
        return page

    @contextmanager
    def batch(self, ahead: Ahead = nothing_ahead) -> Iterator[None]:
        with self._inner.batch(ahead):
            yield
            self._at("committing")
        self._at("committed")

    def close(self) -> None:
        self._inner.close()

    @contextmanager
    def _around_write(self, id: str, *, renewal: bool = False) -> Iterator[None]:
        before, after = "writing", "written"
        if ":run:" in id:
            before, after = "run_writing", "run_written"
        elif renewal:
            before, after = "renewing", "renewed"
        self._at(before)
        yield
        self._at(after)


class FaultyRedis(Redis):
    """A client on the same pool whose delivery of replies can end half-way, as if the rest was never sent."""

    def __init__(self, inner: Redis, at: At) -> None:
        super().__init__(connection_pool=inner.connection_pool)
        self._at = at

    def pipeline(self, transaction: Any = True, shard_hint: Any = None) -> Pipeline:
        """As `Redis.pipeline`."""
        return FaultyPipeline(self._at, self.connection_pool, self.response_callbacks, transaction, shard_hint)


class FaultyPipeline(Pipeline):
    """Sends what delivers replies in two halves, with `replied_partly` in between."""

    def __init__(self, at: At, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._at = at

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """As `Pipeline.execute`."""
        commands = list(self.command_stack)
        if not any(command[0][0] == "RPUSH" and _is_reply_key(command[0][1]) for command in commands):
            return super().execute(raise_on_error)
        self.command_stack = commands[: len(commands) // 2]
        first = super().execute(raise_on_error)
        self._at("replied_partly")
        self.command_stack = commands[len(commands) // 2 :]
        return first + super().execute(raise_on_error)


def _is_reply_key(key: object) -> bool:
    return isinstance(key, str) and key.startswith(REPLY_PREFIX)
