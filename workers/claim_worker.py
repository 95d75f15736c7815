"""ClaimWorker: an rq worker class that settles requests in batches and outlives whatever Redis does.

wait (the server takes, by one Lua call) -> settle (one group of writes) -> end (one pipeline) -> wait
"""

import signal
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from types import FrameType
from typing import Any, Self

import structlog
from redis import Redis
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError
from rq import worker_registration
from rq.serializers import JSONSerializer
from rq.worker import SimpleWorker
from tenacity import RetryCallState, Retrying, retry_if_exception

from broker.backoff import Backoff
from broker.clock import monotonic_ms, sleep_ms
from broker.queues import QUEUES
from broker.settings import load
from workers import full_redis, left_behind, wrong_types
from workers.fleet_status import CLAIM_WORKER
from workers.garbage import Garbage
from workers.heartbeat import Heartbeat
from workers.lean_redis import leave
from workers.logs import configure_logging
from workers.runtime import SOCKET_TIMEOUT_S, Runtime, StartError, open_runtime, own_client, worker_name
from workers.shift import Shift
from workers.waiters import Waiters

log = structlog.get_logger(__name__)

TICK_MS = 1_000
"""How often one of the workers looks after dead workers and ended waits."""
OTHERS_TICK_MS = 3_000
"""How often the others see whether it still does: an idle fleet costs little else."""
STEP = "stop the workers of the one that is not to be served here, then start this one again, or use another Redis"
"""What to do where another store has come."""


class ClaimWorker(SimpleWorker):
    """Serves the broker's queues, rq's wire and the intake alike.

    Runs as `broker worker`, or as `rq worker -w workers.claim_worker.ClaimWorker -S json leases claims jobs`
    with the broker's settings in the environment.
    """

    runtime: Runtime | None = None

    @classmethod
    def for_runtime(cls, runtime: Runtime, *, name: str) -> Self:
        """A worker with what the composition root has built."""
        worker = cls(list(QUEUES), name=name, connection=runtime.connection, serializer=JSONSerializer)
        worker.runtime = runtime
        return worker

    def _set_connection(self, connection: Redis) -> Redis:
        """Keep our time-out: rq would wait 415 s for any answer, so that a half-open connection hung the worker."""
        connection.connection_pool.connection_kwargs["socket_timeout"] = SOCKET_TIMEOUT_S
        return connection

    def serialize(self) -> dict[str, Any]:
        """What rq keeps of this worker, with a mark: rq's own worker, which reads no intake, has none."""
        return {**super().serialize(), CLAIM_WORKER: 1}

    def _set_ip_address(self, connection: Redis) -> None:
        try:
            super()._set_ip_address(connection)
        except ValueError:  # redis-py can't parse CLIENT INFO where the path of the server's socket has a space
            self.ip_address = "unknown"

    def work(self, burst: bool = False, *_: Any, **__: Any) -> bool:
        """Serve until SIGTERM or SIGINT, or with `burst` until the queues are empty. Whether anything was settled.

        Raises:
          StartError: the store or Redis can't keep the promises, or workers of another store serve here by now.
        """
        opened_here = self.runtime is None
        if self.runtime is None:  # started by `rq worker`, which knows nothing of stores
            settings = load()
            configure_logging(settings.log_level)
            self.runtime = open_runtime(settings, connection=own_client(self.connection))
        loop = ServeLoop(self.runtime, self.name if not opened_here else worker_name(), self.queue_names())
        signal.signal(signal.SIGTERM, loop.request_stop)
        signal.signal(signal.SIGINT, loop.request_stop)
        self._register()
        try:
            return loop.run(burst=burst)
        finally:
            _quietly(self.register_death)
            if opened_here:
                self.runtime.close()

    def _register(self) -> None:
        """rq's own book-keeping. It keeps nobody from serving: a Redis that is full gets room, and a list of rq's that
        somebody else has written goes.
        """
        try:
            self.register_birth()  # type: ignore[no-untyped-call]  # rq leaves it untyped
        except OutOfMemoryError:
            full_redis.make_room(self.connection, self.queue_names())
            _quietly(self.register_birth)
        except ResponseError as error:
            if not wrong_types.met(error):
                raise
            wrong_types.clear(self.connection)
            _quietly(lambda: worker_registration.register(self))  # all else of it was carried out


class ServeLoop:
    """One worker's life: serve, and after every failure, of Redis or of our own, come back to what was in hand."""

    def __init__(self, runtime: Runtime, name: str, queues: Sequence[str]) -> None:
        self._runtime = runtime
        self._redis: Redis = runtime.connection
        self._name = name
        self._queues = list(queues)
        self._stopping = False
        self._shift = Shift(runtime.context, runtime.connection, name, self._queues, runtime.settings, at=runtime.at)
        self._next_tick_ms = 0
        self._full = False
        """Whether Redis had no room for what failed last."""
        self._backoff = Backoff(runtime.context.entropy)
        self._displaced = False
        self._heartbeat = Heartbeat(runtime, lambda: self._shift.session, displaced=self._give_way)
        self._garbage = Garbage()
        self._sweep = _own_sweep(runtime) if runtime.memory is not None else nullcontext()

    def request_stop(self, number: int, _frame: FrameType | None) -> None:
        """Finish what is in hand, then return. A second signal changes nothing: every batch is short."""
        log.info("worker_stopping", worker=self._name, signal=signal.Signals(number).name)
        self._stopping = True

    def run(self, *, burst: bool) -> bool:
        """Serve; whether anything was settled.

        Raises:
          StartError: workers of another store serve this Redis, or do so by now.
        """
        self._runtime.serve(session=self._shift.upcoming)
        log.info("worker_started", worker=self._name, queues=self._queues)
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, Exception) and not isinstance(error, _Stopped)),
            wait=lambda _: self._backoff.next_s(),
            before_sleep=self._report,
            sleep=self._pause,
        )
        with self._garbage, self._heartbeat, self._sweep, suppress(_Stopped):
            retrying(self._serve, burst)
        _quietly(lambda: left_behind.leave(self._redis, self._shift.session))
        log.info("worker_stopped", worker=self._name, settled=self._shift.settled)
        if self._displaced:
            raise StartError("another datastore is served on this Redis by now, so this worker serves no more; " + STEP)
        return self._shift.settled > 0

    def _give_way(self) -> None:
        """Serve no more: each of two stores would get requests for the other's jobs."""
        if not self._displaced:
            log.error("other_store_served", worker=self._name, next=STEP)
        self._displaced = self._stopping = True

    def _serve(self, burst: bool) -> None:
        """Serve until told to stop. What an earlier failure left in hand comes first."""
        dropped = full_redis.make_room(self._redis, self._queues) if self._full else None
        self._shift.settle(self._shift.leftovers())
        while dropped == 0 and self._shift.relieve():
            pass
        waiters = Waiters(self._redis, self._shift.session, self._queues, at_most=self._runtime.settings.batch_max)
        try:
            busy = True
            while not self._stopping:
                self._runtime.at("taking")
                hands = waiters.wait(0 if busy or burst else TICK_MS / 1000)
                if hands or busy or burst:  # else every list is empty, and waited on
                    busy = self._shift.serve(hands, meanwhile=waiters.arm)
                    self._backoff.reset()
                    self._garbage.after_batch()
                    if burst and not busy:
                        break
                busy |= self._tick()
            self._shift.stop(waiters.stop())
        finally:
            waiters.close()

    def _tick(self) -> bool:
        """Now and then: requests of dead workers, and waits that are over. Whether to serve before any wait."""
        if monotonic_ms() < self._next_tick_ms:
            return False
        self._next_tick_ms = monotonic_ms() + TICK_MS
        self._heartbeat.progressed()
        self._shift.tell()
        now_ms = left_behind.turn(self._redis, self._name)
        if now_ms is None:
            self._next_tick_ms = monotonic_ms() + OTHERS_TICK_MS
        self._backoff.reset()
        return now_ms is not None and self._shift.look_after(now_ms)

    def _report(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        pause_s = state.next_action.sleep if state.next_action else 0.0
        self._full = full_redis.met(error)
        if not isinstance(error, RedisError):  # a mistake of ours must not end a worker, nor the next one after it
            log.error("serving_failed", worker=self._name, retry_in_s=round(pause_s, 3), exc_info=error)
            return
        log.warning("redis_lost", worker=self._name, error=str(error), retry_in_s=round(pause_s, 3))
        leave(self._redis, error)
        if wrong_types.met(error):
            wrong_types.clear(self._redis)

    def _pause(self, seconds: float) -> None:
        """Wait before Redis is tried again, in slices, so that a stop is heard."""
        end_ms = monotonic_ms() + seconds * 1000
        while not self._stopping and monotonic_ms() < end_ms:
            sleep_ms(min(100, seconds * 1000))
        if self._stopping:
            raise _Stopped


def _own_sweep(runtime: Runtime) -> AbstractContextManager[object]:
    from workers.own_sweep import OwnSweep  # loaded only by the one worker of a memory store

    return OwnSweep(runtime)


class _Stopped(Exception):
    """Told to stop while Redis is away. What is in flight will be taken over."""


def _quietly(act: Any) -> None:
    """rq's own book-keeping at the end; without Redis it expires by itself."""
    try:
        act()
    except RedisError as error:
        log.debug("rq_bookkeeping_skipped", error=str(error))
