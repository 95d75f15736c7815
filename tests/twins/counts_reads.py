"""A store that knows how often each document was read."""

from collections import Counter

from datastore import Datastore, ReadResult
from tests.twins.forwarding import Forwarding


class CountsReads(Forwarding):
    """Says what was read how often."""

    def __init__(self, inner: Datastore) -> None:
        super().__init__(inner)
        self.reads: Counter[str] = Counter()

    def read(self, id: str, partition_key: str) -> ReadResult:
        self.reads[id] += 1
        return super().read(id, partition_key)
