"""Reads the records of a row that is not ours: each was taken once."""

from benchmarks.load.record import RECORDS
from benchmarks.processes import Violation
from benchmarks.server import Server

PAGE = 1_000


def count_winners(server: Server) -> int:
    """How many records have a winner.

    Raises:
      Violation: one was taken twice.
    """
    found = 0
    with server.connect() as connection:
        names = list(connection.scan_iter(f"{RECORDS}*", count=PAGE))
        for start in range(0, len(names), PAGE):
            with connection.pipeline(transaction=False) as pipe:
                for name in names[start : start + PAGE]:
                    pipe.hget(name, "epoch")
                epochs = pipe.execute()
            if any(epoch != b"1" for epoch in epochs):
                raise Violation(f"a record of {len(names)} was taken more than once")
            found += len(epochs)
    return found
