"""What earlier copies of the claims of any job in a batch were granted: one search tells it for all of them."""

from collections.abc import Collection, Iterator

from broker.answers import Answer, Reason, Word
from broker.documents import Job
from broker.messages import Claim
from broker.proposals import Remembered
from broker.repository import PAGE_DOCUMENTS
from broker.searches import pages
from broker.settlement import Settlement
from datastore import AnyOf, Corrupt, Datastore, DatastoreError, Filter, Page

_UNKNOWN = Settlement(Answer(Word.OUTCOME_UNKNOWN, Reason.STORE))


class EarlierGrants:
    """The leases that were granted to some requests: looked for when the first of these is asked about.

    A search looks at every lease there is, whatever it asks for, and those behind the batch wait.
    """

    def __init__(self, store: Datastore, resends: Collection[Claim]) -> None:
        self._store = store
        self._resends = resends
        self._found: dict[tuple[str, str], list[str]] | None = None
        self._in_doubt = False
        """Where nothing is found for a request, that is unknown: what could not be read may be it."""

    def of(self, request: Claim, *, at_most: int) -> Remembered | Settlement | None:
        """Of one of them its jobs, if any: one, or up to `at_most` where it asked for several."""
        if self._found is None:
            try:
                self._found = self._look()
            except DatastoreError:
                self._found, self._in_doubt = {}, True
        if jobs := self._found.get((request.factory_id, request.request_id)):
            return Remembered(tuple(jobs[:at_most]))
        return _UNKNOWN if self._in_doubt else None

    def _look(self) -> dict[tuple[str, str], list[str]]:
        found: dict[tuple[str, str], list[str]] = {}
        for page in self._pages():
            self._in_doubt = self._in_doubt or bool(page.unreadable)
            for document in page.documents:
                try:
                    lease = Job.from_document(document).lease
                except Corrupt:
                    self._in_doubt = True
                    continue
                if lease is not None:
                    found.setdefault((lease.factory_id, lease.request_id), []).append(document.id)
        return found

    def _pages(self) -> Iterator[Page]:
        ids = dict.fromkeys(request.request_id for request in self._resends)
        factories = dict.fromkeys(request.factory_id for request in self._resends)
        wanted: Filter = {
            "state": "leased",
            "lease.request_id": AnyOf(tuple(ids)),
            "lease.factory_id": AnyOf(tuple(factories)),
        }
        return pages(self._store, wanted, limit=PAGE_DOCUMENTS)
