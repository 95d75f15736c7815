"""A store that shows a document as it was: reads and searches may be stale, only a conditional write never is."""

from datastore import Datastore, Filter, Page, ReadResult
from tests.twins.forwarding import Forwarding


class ShowsEarlier(Forwarding):
    """The first reads of one document show it as it was, and searches leave it out."""

    def __init__(self, inner: Datastore, id: str, was: ReadResult, *, times: int) -> None:
        super().__init__(inner)
        self._id, self._was, self._times = id, was, times

    def read(self, id: str, partition_key: str) -> ReadResult:
        if id == self._id and self._times:
            self._times -= 1
            return self._was
        return super().read(id, partition_key)

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        page = super().find(filter, limit, cursor)
        return Page(tuple(each for each in page.documents if each.id != self._id), page.cursor)
