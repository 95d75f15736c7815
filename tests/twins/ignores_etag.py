"""A store that ignores If-Match, as some emulators and SDK versions do."""

from datastore.interface import Datastore, Expected, Patch, UpdateResult
from datastore.memory import MemoryDatastore
from datastore.sqlite import SqliteDatastore
from tests.twins.forwarding import Forwarding, write_anyway


class IgnoresEtag(Forwarding):
    """Every update of a document that exists is written, whatever version was expected."""

    def __init__(self, inner: Datastore | None = None) -> None:
        super().__init__(MemoryDatastore() if inner is None else inner)

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        del expected  # the bug
        return write_anyway(self.inner, id, partition_key, patch)


def open_twin(path: str) -> Datastore:
    """The broken store over a SQLite file, for several processes."""
    return IgnoresEtag(SqliteDatastore(path))
