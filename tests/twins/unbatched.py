"""SQLite without its transactions around batches: workers' claims interleave step by step, as they do on Cosmos."""

from contextlib import AbstractContextManager, nullcontext
from typing import NoReturn

from datastore import Datastore
from datastore.interface import Ahead, nothing_ahead
from datastore.sqlite import SqliteDatastore
from tests.twins.forwarding import Forwarding
from tests.twins.meeting import FileMeeting, Version
from tests.twins.read_check_write import ReadCheckWrite

ALONE_MS = 200


class Unbatched(Forwarding):
    """A sound store that groups nothing."""

    def batch(self, ahead: Ahead = nothing_ahead) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()

    @property
    def update_each(self) -> NoReturn:
        raise AttributeError("several updates with one call are a group")


def open_sound(path: str) -> Datastore:
    """The sound one."""
    return Unbatched(SqliteDatastore(path))


def open_twin(path: str) -> Datastore:
    """The broken one: slots and rates are checked, and then written whatever happened since."""
    meeting = FileMeeting(f"{path}.meeting", alone_ms=ALONE_MS)

    def gap(version: Version) -> None:
        if version[1].startswith(("slot:", "rate:")):
            meeting(version)

    return ReadCheckWrite(SqliteDatastore(path), gap=gap)
