"""Sorts what was taken: requests to settle, and entries that are none or that nobody may ask for."""

from collections.abc import Sequence

import structlog
from redis import Redis

from broker.door import WINDOW_MS, Taken, repeated
from broker.parsing import Malformed
from broker.settlement import Context
from workers.finishing import Refused
from workers.taking import Entry, NotOurs

log = structlog.get_logger(__name__)

ONCE = "broker:once:"
"""Key of a signed request that was taken, by its MAC, until it is past its deadline."""
MARGIN_MS = 1_000
"""Deadlines are compared with broker time as carried on by a worker's own clock."""


def admitted(
    context: Context, connection: Redis, entries: Sequence[Entry], *, now_ms: int
) -> tuple[list[tuple[Entry, Taken]], list[Refused]]:
    """What `context.door` lets in, and what it does not."""
    batch: list[tuple[Entry, Taken]] = []
    refused: list[Refused] = []
    for entry in entries:
        try:
            batch.append((entry, context.door.admit(entry.envelope(), insist=entry.insist, now_ms=now_ms)))
        except (NotOurs, Malformed) as error:
            refused.append(Refused(entry, error))
        except Exception as error:  # whatever it is, it must not stop the worker
            log.exception("entry_failed")
            refused.append(Refused(entry, NotOurs(f"can't be read: {type(error).__name__}")))
    if any(taken.once for _, taken in batch):
        copies = _copies(connection, batch, now_ms=now_ms)
        refused += [Refused(batch[position][0], repeated(batch[position][1].request)) for position in copies]
        batch = [each for position, each in enumerate(batch) if position not in copies]
    return batch, refused


def _copies(connection: Redis, batch: Sequence[tuple[Entry, Taken]], *, now_ms: int) -> set[int]:
    """Signed requests that were taken before, byte for byte: somebody has recorded them and sends them again.

    What was in hand when its worker died is no copy. All of Redis lost, a copy is settled like a resend.
    """
    with connection.pipeline(transaction=False) as pipe:
        marked = [position for position, (_, taken) in enumerate(batch) if taken.once]
        for position in marked:
            taken = batch[position][1]
            left_ms = (taken.request.deadline_ms or now_ms + WINDOW_MS) - now_ms
            pipe.set(f"{ONCE}{taken.once}", 1, nx=True, px=max(0, left_ms) + MARGIN_MS)
        new = pipe.execute()
    return {position for position, made in zip(marked, new, strict=True) if not made and not batch[position][1].insist}
