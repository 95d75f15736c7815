"""Broken workers, so that the judgement of a kill is seen to fail: one forgets requests, one forgets writes."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from msgspec import structs

from datastore import Datastore
from datastore.interface import (
    Ahead,
    Body,
    CreateResult,
    Document,
    Etag,
    Expected,
    Ok,
    Patch,
    UpdateResult,
    nothing_ahead,
)
from tests.twins.forwarding import Forwarding
from workers.inflight import PREFIX
from workers.runtime import Runtime

Twin = Callable[[Runtime], Runtime]


def keeps_nothing_in_flight(runtime: Runtime) -> Runtime:
    """What it takes is in no list any more, as in a worker that pops with LPOP."""
    inner = runtime.at

    def at(point: str) -> None:
        if point == "taken":
            for key in runtime.connection.scan_iter(f"{PREFIX}*:rq*"):
                runtime.connection.delete(key)
        inner(point)

    return replace(runtime, at=at)


def answers_before_it_commits(runtime: Runtime) -> Runtime:
    """Its store says that a job is created, and creates it with the next batch."""
    store = LateStore(runtime.store)
    return replace(runtime, store=store, context=structs.replace(runtime.context, store=store))


class LateStore(Forwarding):
    """Creates what it was told to create one batch later; a kill in between takes it away."""

    def __init__(self, inner: Datastore) -> None:
        super().__init__(inner)
        self._owed: list[tuple[str, str, Body]] = []

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        self._owed.append((id, partition_key, body))
        return Ok(Document(id, partition_key, 1, Etag("later"), body))

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        return self.inner.update_if_match(id, partition_key, expected, patch)

    @contextmanager
    def batch(self, ahead: Ahead = nothing_ahead) -> Iterator[None]:
        with self.inner.batch(ahead):
            for owed in self._owed:
                self.inner.create(*owed)
            self._owed = []
            yield


TWINS: Mapping[str, Twin] = {
    "keeps nothing in flight": keeps_nothing_in_flight,
    "answers before it commits": answers_before_it_commits,
}
