"""A store like a SQLite file: one writer at a time, whose batch stands as a whole or not at all; no read is stale."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from datastore.errors import OutcomeUnknown, Unavailable
from datastore.interface import (
    Ahead,
    Body,
    CreateResult,
    Document,
    Expected,
    Filter,
    NotFound,
    Ok,
    Page,
    Patch,
    ReadResult,
    Update,
    UpdateResult,
    nothing_ahead,
)
from datastore.memory import MemoryDatastore
from tests.simulation.faults import Dice
from tests.simulation.process import Process
from tests.simulation.store import Seen, TrueStore
from tests.twins.forwarding import Forwarding

BUSY_MS = 5_000
"""How long a writer waits for its turn."""


class TrueFile(TrueStore):
    """What is committed, which everybody sees, and what one process has written since."""

    def __init__(self, seen: Seen) -> None:
        super().__init__(seen)
        self.owner: Process | None = None
        """Who has a transaction open."""
        self._committed: dict[tuple[str, str], Document] = {}
        self._written: list[Document] = []

    def read(self, id: str, partition_key: str) -> ReadResult:
        """As committed."""
        document = self._committed.get((partition_key, id))
        return NotFound() if document is None else Ok(document)

    def read_as(self, process: Process, id: str, partition_key: str) -> ReadResult:
        """With what this process has written, if it has a transaction open."""
        return self.inner.read(id, partition_key) if self.owner is process else self.read(id, partition_key)

    def begin(self, process: Process) -> None:
        """Only where nobody has a transaction open."""
        assert self.owner is None, "one writer at a time"
        self.owner = process

    def commit(self) -> None:
        """Everybody sees what was written, and the judge does, in order."""
        written, self._written, self.owner = self._written, [], None
        for document in written:
            self._committed[document.partition_key, document.id] = document
            super()._wrote(document)

    def roll_back(self) -> None:
        """Nothing was written."""
        self._written, self.owner = [], None
        assert isinstance(self.inner, MemoryDatastore)
        self.inner._documents.clear()
        self.inner._documents.update(self._committed)

    def _wrote(self, after: Document) -> None:
        assert self.owner is not None, "a write is within a transaction"
        self._written.append(after)


class FileLine(Forwarding):
    """One process's connection to the file. Whatever fails, what it is told of the outcome is true, or unknown."""

    def __init__(self, truth: TrueFile, process: Process, dice: Dice) -> None:
        super().__init__(truth)
        self._truth = truth
        self._process = process
        self._dice = dice
        self._spoilt = False
        """By a failure within this transaction, of which nothing will be written."""

    def read(self, id: str, partition_key: str) -> ReadResult:
        self._step("file_read")
        return self._truth.read_as(self._process, id, partition_key)

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        self._step("file_read")
        return self._truth.find(filter, limit, cursor)

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        with self._turn():
            self._step("file_write")
            return self._truth.create(id, partition_key, body)

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        with self._turn():
            self._step("file_write")
            return self._truth.update_if_match(id, partition_key, expected, patch)

    def update_each(self, updates: Sequence[Update]) -> list[UpdateResult]:
        with self._turn():
            return [
                self.update_if_match(each.id, each.partition_key, Expected.of(each.expected), each.patch)
                for each in updates
            ]

    @contextmanager
    def batch(self, ahead: Ahead = nothing_ahead) -> Iterator[None]:  # noqa: ARG002
        assert self._truth.owner is not self._process, "one batch is one transaction"
        with self._turn():
            yield

    def _step(self, site: str) -> None:
        """The time of a call, in which the process may die, or stand still with the lock in hand."""
        self._process.wait(self._dice.random.uniform(0.01, 0.5))
        failed = bool(self._dice.roll(site))
        self._spoilt = self._truth.owner is self._process and (self._spoilt or failed)
        if self._spoilt or failed:
            raise Unavailable(f"simulated: the {site} failed")

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Within a batch nothing of its own; else a transaction of this one write."""
        if self._truth.owner is self._process:
            yield
            return
        self._wait_for_turn()
        self._truth.begin(self._process)
        self._spoilt = False
        try:
            yield
            if self._spoilt:
                raise Unavailable("simulated: nothing of this transaction was written")
            self._process.wait(self._dice.random.uniform(0.1, 3))  # the disk
            fault = self._dice.roll("file_commit")
        except BaseException:
            self._truth.roll_back()
            raise
        finally:
            self._spoilt = False
        if fault in ("commit_refused", "commit_lost"):
            self._truth.roll_back()
        else:
            self._truth.commit()
        if fault == "commit_refused":
            raise Unavailable("simulated: the commit was refused")
        if fault:
            raise OutcomeUnknown("simulated: nobody knows whether it was committed")

    def _wait_for_turn(self) -> None:
        until_ms = self._process.clock.steady_ms() + BUSY_MS
        while self._truth.owner is not None:
            if self._process.clock.steady_ms() > until_ms:
                raise Unavailable("simulated: another process has been writing")
            self._process.wait(self._dice.random.uniform(0.5, 5))
