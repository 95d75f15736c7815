"""A broker worker whose store counts: how many conditional writes of a job it did, and how many came too late."""

import os
import struct
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from msgspec import structs

from broker.settings import load
from datastore import Conflict, Datastore, Expected, Ok, Patch, UpdateResult
from datastore.interface import TakesSeveral, Update
from workers.claim_worker import ClaimWorker
from workers.logs import configure_logging
from workers.runtime import open_runtime, worker_name

FOLDER = "BENCH_COUNTS"
COUNTS = struct.Struct("qq")


class Counting:
    """A store that notes each conditional write in a file, so that a killed worker has told all the same.

    Of stores that take several updates at once, as those of this process and of a file do.
    """

    def __init__(self, store: Datastore, path: Path) -> None:
        self._store = store
        self._several = cast("TakesSeveral", store)
        self._file = path.open("wb", buffering=0)
        self._written = self._late = 0

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

    def close(self) -> None:
        """Close the store, and the file."""
        self._store.close()
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)  # all the rest goes straight through

    def _count(self, answers: Sequence[UpdateResult]) -> None:
        self._written += sum(isinstance(answer, Ok) for answer in answers)
        self._late += sum(isinstance(answer, Conflict) for answer in answers)
        os.pwrite(self._file.fileno(), COUNTS.pack(self._written, self._late), 0)


def counted(folder: Path) -> tuple[int, int]:
    """Conditional writes of jobs that were done, and those that came too late, of all workers."""
    counts = [COUNTS.unpack(data) for path in folder.glob("*.counts") if (data := path.read_bytes())]
    return sum(written for written, _ in counts), sum(late for _, late in counts)


def main() -> int:
    """Serve until told to stop, as `broker worker` does."""
    settings = load()
    configure_logging(settings.log_level)
    runtime = open_runtime(settings)
    store = cast("Datastore", Counting(runtime.store, Path(os.environ[FOLDER]) / f"{os.getpid()}.counts"))
    runtime = replace(runtime, store=store, context=structs.replace(runtime.context, store=store))
    try:
        ClaimWorker.for_runtime(runtime, name=worker_name()).work()
        return 0
    finally:
        runtime.close()


if __name__ == "__main__":
    sys.exit(main())
