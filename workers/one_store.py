"""Keeps workers of two datastores off one Redis, where each would take requests for the other's jobs."""

from redis import Redis

from broker.entropy import Entropy
from broker.scripts import Script
from broker.shared_document import change, read_known
from datastore import Datastore, Unavailable
from workers.memory_owner import is_gone
from workers.taking import WORKERS

SERVED = "broker:store"
"""The mark of the datastore whose jobs are served on this Redis."""
MARK_ID = "store:mark"
"""The document that tells a datastore from every other. No job can have this id."""
HEARD_MS = 6_000
"""A worker that was not heard of for so long serves no more: three of its beats."""


class OtherStore(Exception):
    """Workers that serve this Redis have their jobs in another datastore."""


IS_MARK = """
-- Whether a store may have this mark: 32 hex digits, or of a memory its host, process, when that began, and 16 of them.
-- All else nobody of ours has written: it counts as none.
local MARK_MAX = 512
local function is_mark(found)
  if type(found) ~= 'string' or #found > MARK_MAX then return false end
  local hex = string.match(found, '^.+ %d+ .+ (%x+)$')
  if hex then return #hex == 16 end
  return #found == 32 and not string.find(found, '%X')
end
"""
_TAKE = Script(
    IS_MARK
    + """
-- KEYS: 1 the store that is served, 2 workers.
-- ARGV: this store, for how long a worker is heard of (ms), a store that is gone, a worker that begins, or none
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local other = redis.pcall('GET', KEYS[1])
if other ~= ARGV[1] then  -- else nothing is written: a Redis that is full takes nothing
  if is_mark(other) and other ~= ARGV[3] then
    local heard = redis.pcall('ZCOUNT', KEYS[2], now - ARGV[2], now + ARGV[2])
    if type(heard) == 'number' and heard > 0 then return other end
  end
  redis.call('SET', KEYS[1], ARGV[1])
end
-- Heard of in the same step: of two that begin at once the second sees the first. A full Redis hears of it later.
if ARGV[4] ~= '' then redis.pcall('ZADD', KEYS[2], now, ARGV[4]) end
return false
"""
)


def serve_own(redis: Redis, mark: str, *, session: str = "") -> None:
    """Have this Redis serve the jobs of the store with this mark, unless workers that live serve another's.

    `session`: under which a worker of that store begins to serve. It is heard of from now on.

    Raises:
      OtherStore: they do. Nothing is changed.
      RedisError: this user may not ask, Redis has no memory left, or can't be reached.
    """
    other = _TAKE.run(redis, [SERVED, WORKERS], [mark, HEARD_MS, "", session])
    if other is not None and is_gone(str(other, "utf-8", "replace")):  # with it all that served its jobs
        other = _TAKE.run(redis, [SERVED, WORKERS], [mark, HEARD_MS, other, session])
    if other is not None:
        raise OtherStore(
            "workers of another datastore serve this Redis, and each would take requests for the other's jobs; stop "
            f"them (one that was killed is forgotten after {HEARD_MS // 1_000} s), or use another Redis"
        )


def require_own_store(redis: Redis, store: Datastore, entropy: Entropy) -> str:
    """`serve_own` of a store that several processes may serve. Returns its mark, which it keeps.

    Raises:
      OtherStore, RedisError: as there.
      DatastoreError: the store failed.
    """
    mark = _mark(store, entropy)
    serve_own(redis, mark)
    return mark


def _mark(store: Datastore, entropy: Entropy) -> str:
    change(store, entropy, MARK_ID, lambda _: None, empty={"kind": "store", "mark": entropy.token()})
    document = read_known(store, MARK_ID)
    if document is None:
        raise Unavailable(f"{MARK_ID!r} was written, and a read does not show it yet")
    return str(document.body.get("mark"))
