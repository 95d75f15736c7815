"""Pages of a listing: each ends by count, by bytes or by what was looked at, and says where the next one begins."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from broker.replies import encode
from broker.repository import find_page
from datastore import Datastore, Document, Filter
from datastore.cursor import encode_cursor

PAGE_BYTES = 1024 * 1024
"""What the rows of one page take as JSON: a thousand ordinary jobs, eighteen of the fattest that can be submitted. One
row that is larger is a page by itself."""
PORTION = 100
"""Documents that are read at once: what a page has no room for was read for nothing."""

Row: TypeAlias = Mapping[str, Any]


class Filling:
    """A page as it fills up."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._bytes = 0

    def add(self, row: Row) -> bool:
        """Put a row on the page; False where it belongs on the next one."""
        self._bytes += len(encode(row))
        if self.rows and self._bytes > PAGE_BYTES:
            return False
        self.rows.append(row)
        return True


def page(
    store: Datastore, filter: Filter, rows: Callable[[Document], Iterable[Row]], *, limit: int, cursor: str | None
) -> tuple[list[Row], str | None]:
    """Of up to `limit` documents that match what `rows` makes of each, one or none; and the cursor, None at the end.

    It ends with a search that found fewer than it was asked for: that has looked at all that one look may.
    """
    filling = Filling()
    for looked_at in range(0, limit, PORTION):
        wanted = min(PORTION, limit - looked_at)
        found = find_page(store, filter, limit=wanted, cursor=cursor)
        for document in found.documents:
            if not all(map(filling.add, rows(document))):
                return filling.rows, cursor
            cursor = encode_cursor(document)
        cursor = found.cursor
        if cursor is None or len(found.documents) < wanted:
            break
    return filling.rows, cursor
