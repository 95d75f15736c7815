"""Goes over all jobs of a state page by page, some of them in each sweep: nobody else is to wait for the last."""

from broker import repository
from datastore import Corrupt, Datastore, Page, Rejected


class Round:
    """Where a round stands. After the last page another one begins."""

    def __init__(self, store: Datastore, state: str) -> None:
        self._store = store
        self._state = state
        self._cursor: str | None = None

    @property
    def over(self) -> bool:
        """Whether no page of a round is left: the next one is the first of another."""
        return self._cursor is None

    def begin_anew(self) -> None:
        """The next page is the first."""
        self._cursor = None

    def next_page(self, limit: int) -> Page:
        """Jobs that come next, in the order of their names. They are the next until they were gone over.

        Raises:
          Corrupt, Rejected: it can't be read for good; the next one is the first, since what comes before this one is
            not to wait for that too.
          Unavailable: it is still the next.
        """
        try:
            search = {"kind": "job", "state": self._state}
            return repository.find_page(self._store, search, limit=limit, cursor=self._cursor)
        except (Corrupt, Rejected):
            self.begin_anew()
            raise

    def gone_over(self, page: Page) -> None:
        """The one behind it is the next."""
        self._cursor = page.cursor
