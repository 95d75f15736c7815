"""Tells the other workers that this one lives, also while a slow store holds up a batch."""

from collections.abc import Callable

import structlog
from redis import Redis
from redis.exceptions import RedisError

from broker.clock import monotonic_ms
from broker.scripts import Script
from workers.beside import Beside
from workers.lean_redis import leave
from workers.one_store import IS_MARK, SERVED
from workers.runtime import Runtime, copy_pool
from workers.taking import WORKERS

log = structlog.get_logger(__name__)

_BEAT = Script(
    IS_MARK
    + """
-- KEYS: 1 workers, 2 the store that is served.  ARGV: worker, its store's mark
local served = redis.pcall('GET', KEYS[2])
if served ~= ARGV[2] and is_mark(served) then return 0 end
local t = redis.call('TIME')
redis.call('ZADD', KEYS[1], t[1] * 1000 + math.floor(t[2] / 1000), ARGV[1])
if served ~= ARGV[2] then redis.call('SET', KEYS[2], ARGV[2]) end  -- lost with all of Redis, or overwritten
return 1
"""
)

BEAT_S = 2.0
"""A third of the default take-over time."""
BEATS_MIN = 3
"""Beats in the time after which a worker is taken for dead: two may be late or lost."""
STUCK_MS = 120_000
"""A main loop without progress for this long counts as dead: its requests are better off elsewhere."""


class Heartbeat(Beside):
    """A thread with a connection of its own."""

    def __init__(self, runtime: Runtime, session: Callable[[], str], *, displaced: Callable[[], None]) -> None:
        """`session`: the name under which the worker has its requests in hand, asked for before each beat.

        `displaced`: called where another store is served by now. It came while this worker was not heard of, as after
        Redis had lost everything.
        """
        super().__init__("heartbeat")
        self._displaced = displaced
        self._runtime = runtime
        self._session = session
        # A client of its own: the pool of the main loop's may be in trouble just when this matters.
        self._redis = Redis(connection_pool=copy_pool(runtime.connection))
        self._every_s = min(BEAT_S, runtime.settings.takeover_ms / 1_000 / BEATS_MIN)
        self._progress_ms = monotonic_ms()

    def progressed(self) -> None:
        """Called by the main loop: it is not stuck."""
        self._progress_ms = monotonic_ms()

    def _run(self) -> None:
        redis = self._redis
        while not self._stop.wait(self._every_s):
            if monotonic_ms() - self._progress_ms > STUCK_MS:
                continue
            try:
                if not _BEAT.run(redis, [WORKERS, SERVED], [self._session(), self._runtime.mark]):
                    self._displaced()
                elif self._runtime.memory is not None:
                    self._runtime.memory.keep(redis)
            except RedisError as error:
                log.debug("heartbeat_missed", worker=self._session(), error=str(error))
                leave(redis, error)
            except Exception:  # a mistake of ours costs one beat: who lives is not to be taken for dead
                log.exception("heartbeat_failed", worker=self._session())
        redis.close()
