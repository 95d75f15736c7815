"""A store whose groups of writes are committed, and nobody is told so; or are not, and nobody is told that."""

from collections.abc import Iterator
from contextlib import contextmanager

from datastore import Datastore, OutcomeUnknown
from datastore.interface import Ahead, nothing_ahead
from tests.twins.forwarding import Forwarding


class UnknownCommits(Forwarding):
    """Of each of the first groups: whether it is committed; None where that is known, as of all that follow."""

    def __init__(self, inner: Datastore, *committed: bool | None) -> None:
        super().__init__(inner)
        self._committed = list(committed)

    @contextmanager
    def batch(self, ahead: Ahead = nothing_ahead) -> Iterator[None]:
        committed = self._committed.pop(0) if self._committed else None
        with super().batch(ahead):
            yield
            if committed is False:
                raise OutcomeUnknown("scripted: the commit failed")
        if committed:
            raise OutcomeUnknown("scripted: the answer of the commit was lost")
