"""A broker worker that counts: jobs that a claim-next tried, those it could not have any more, and late writes."""

import os
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast
from unittest.mock import patch

from msgspec import structs

from broker import batch
from broker.gathering import STALE
from broker.messages import Request
from broker.proposals import Candidate, Proposal
from broker.settings import load
from broker.settlement import Context, Settlement
from datastore import Conflict, Datastore, Expected, Ok, Patch, UpdateResult
from datastore.interface import TakesSeveral, Update
from workers.claim_worker import ClaimWorker
from workers.logs import configure_logging
from workers.runtime import open_runtime, worker_name

FOLDER = "BENCH_COUNTS"
COUNTS = struct.Struct("4q")

Outcome: TypeAlias = Callable[
    [Context, Request, Proposal | Settlement, Sequence[Settlement], int],
    Settlement | None,
]
"""`batch._outcome`, which sees what became of each job that a claim-next was proposed."""


class Counted(NamedTuple):
    """What workers did so far."""

    tried: int = 0
    """Jobs that were proposed to a claim-next and looked at."""
    in_vain: int = 0
    """Those that it could not have any more. On SQLite, where a batch reads and writes under one lock, a job that
    another worker has taken is seen to be leased: nothing is written, and so no write comes too late."""
    written: int = 0
    """Conditional writes of jobs that were done."""
    late: int = 0
    """Those that were refused, as the job had changed since it was read: it is read, and tried, again."""

    def since(self, before: "Counted") -> "Counted":
        """What came after `before`."""
        return Counted(*(now - then for now, then in zip(self, before, strict=True)))

    @property
    def conflicts_percent(self) -> float:
        """How many tries of a hundred another worker had forestalled, whether that was read or found in writing."""
        return 100 * (self.in_vain + self.late) / max(1, self.tried + self.late)


class Counts:
    """Numbers in a file, so that a killed worker has told all the same."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._so_far = Counted()

    def add(self, more: Counted) -> None:
        """Count that too."""
        self._so_far = Counted(*map(sum, zip(self._so_far, more, strict=True)))
        os.pwrite(self._file.fileno(), COUNTS.pack(*self._so_far), 0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Counting:
    """A store whose conditional writes are counted.

    Of stores that take several updates at once, as those of this process and of a file do.
    """

    def __init__(self, store: Datastore, counts: Counts) -> None:
        self._store = store
        self._several = cast("TakesSeveral", store)
        self._counts = counts

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        """The store's own, counted where it is a job's: runs and slots are others' business."""
        answer = self._store.update_if_match(id, partition_key, expected, patch)
        self._count([answer] if id == partition_key else [])
        return answer

    def update_each(self, updates: Sequence[Update]) -> list[UpdateResult]:
        """The store's own, counted in the same way."""
        answers = self._several.update_each(updates)
        self._count([each for update, each in zip(updates, answers, strict=True) if update.id == update.partition_key])
        return answers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)  # all the rest goes straight through

    def _count(self, answers: Sequence[UpdateResult]) -> None:
        written = sum(isinstance(answer, Ok) for answer in answers)
        self._counts.add(Counted(written=written, late=sum(isinstance(answer, Conflict) for answer in answers)))


def counting_tries(outcome: Outcome, counts: Counts) -> Outcome:
    """The same, and the jobs that a claim-next was proposed are counted; not those that a resend may have already."""

    def counted(
        context: Context,
        request: Request,
        proposal: Proposal | Settlement,
        tries: Sequence[Settlement],
        now_ms: int,
    ) -> Settlement | None:
        if isinstance(proposal, Candidate):
            counts.add(Counted(tried=len(tries), in_vain=sum(each.answer.word in STALE for each in tries)))
        return outcome(context, request, proposal, tries, now_ms)

    return counted


def counted(folder: Path) -> Counted:
    """The counts of all workers together."""
    counts = [COUNTS.unpack(data) for path in folder.glob("*.counts") if (data := path.read_bytes())]
    return Counted(*map(sum, zip(*counts, strict=True)))


def main() -> int:
    """Serve until told to stop, as `broker worker` does."""
    settings = load()
    configure_logging(settings.log_level)
    counts = Counts(Path(os.environ[FOLDER]) / f"{os.getpid()}.counts")
    runtime = open_runtime(settings)
    store = cast("Datastore", Counting(runtime.store, counts))
    runtime = replace(runtime, store=store, context=structs.replace(runtime.context, store=store))
    try:
        with patch.object(batch, "_outcome", counting_tries(batch._outcome, counts)):
            ClaimWorker.for_runtime(runtime, name=worker_name()).work()
        return 0
    finally:
        runtime.close()
        counts.close()


if __name__ == "__main__":
    sys.exit(main())
