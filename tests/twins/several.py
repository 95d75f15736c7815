"""Stores that take several updates with one call, made of others, sound and broken."""

from collections.abc import Callable, Sequence
from typing import Any

from datastore.errors import NotApplied, OutcomeUnknown, Throttled
from datastore.interface import Datastore, Expected, Patch, TakesSeveral, Update, UpdateResult
from tests.twins.forwarding import Forwarding, write_anyway


class OneOfSeveral(Forwarding):
    """Each update is one of several that are made with one call."""

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        assert isinstance(self.inner, TakesSeveral)
        [result] = self.inner.update_each([Update(id, partition_key, expected, patch)])
        return result


class OneByOne(Forwarding):
    """Several updates are made one by one, each with a fate of its own; the call has one answer for all of them."""

    def update_each(self, updates: Sequence[Update]) -> list[UpdateResult]:
        results: list[UpdateResult] = []
        lost: OutcomeUnknown | None = None
        for update in updates:
            expected = Expected.of(update.expected)
            try:
                results.append(self.update_if_match(update.id, update.partition_key, expected, update.patch))
            except NotApplied as error:
                if lost is None and not results:
                    raise
                lost = OutcomeUnknown(f"some may have been written before: {error}")
                break
            except OutcomeUnknown as error:
                lost = error
        if lost is not None:
            raise lost
        return results


class WritesAnyway(Forwarding):
    """Broken: of several updates with one call, whatever is expected is written."""

    def update_each(self, updates: Sequence[Update]) -> list[UpdateResult]:
        return [write_anyway(self.inner, update.id, update.partition_key, update.patch) for update in updates]


class Meanwhile(Forwarding):
    """Something happens between the reading of some documents and their writing."""

    def __init__(self, inner: Datastore, happens: Callable[[], Any]) -> None:
        super().__init__(inner)
        self._happens: Callable[[], Any] | None = happens

    def update_each(self, updates: Sequence[Update]) -> list[UpdateResult]:
        if self._happens is not None:
            happens, self._happens = self._happens, None
            happens()
        assert isinstance(self.inner, TakesSeveral)
        return self.inner.update_each(updates)


class Full(Forwarding):
    """Takes no several updates now."""

    sent = 0

    def update_each(self, updates: Sequence[Update]) -> list[UpdateResult]:
        self.sent += 1
        raise Throttled(f"scripted: {len(updates)} updates", retry_after_ms=5)


class StopsPartWay(Forwarding):
    """Broken: where one of several can't be stored, those before it are written."""

    def update_each(self, updates: Sequence[Update]) -> list[UpdateResult]:
        write = self.inner.update_if_match
        return [write(each.id, each.partition_key, Expected.of(each.expected), each.patch) for each in updates]
