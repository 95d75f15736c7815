"""Sorts what was taken: requests to settle, and entries that are none or that nobody may ask for."""

from collections.abc import Sequence

import structlog
from redis import Redis

from broker.door import WINDOW_MS, Taken, repeated
from broker.parsing import Malformed
from broker.scripts import Script
from broker.settlement import Context
from workers.entries import Entry, NotOurs, once_key
from workers.finishing import Refused

log = structlog.get_logger(__name__)

MARGIN_MS = 1_000
"""Deadlines are compared with broker time as carried on by a worker's own clock."""

_MARK = Script(
    """
-- KEYS: a mark for each request.  ARGV: how long each stands, ms.  Returns the numbers of those that stood before
local known = {}
for i, key in ipairs(KEYS) do
  if not redis.call('SET', key, 1, 'NX', 'PX', ARGV[i]) then known[#known + 1] = i end
end
return known
"""
)


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
            # Its traceback leads here, to `refused` and so to itself: without it nothing is left for the collector.
            refused.append(Refused(entry, error.with_traceback(None)))
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
    marked, keys, left_ms = [], [], []
    for position, (_, taken) in enumerate(batch):
        if taken.once is None:
            continue
        marked.append(position)
        keys.append(once_key(taken.once))
        left_ms.append(max(0, (taken.request.deadline_ms or now_ms + WINDOW_MS) - now_ms) + MARGIN_MS)
    known = [marked[number - 1] for number in _MARK.run(connection, keys, left_ms)]
    return {position for position in known if not batch[position][1].insist}
