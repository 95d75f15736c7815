"""Kills a process at one point, lets another go on, and looks at what is left."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import redis

from broker.clock import RedisClock
from broker.messages import Request
from datastore import connect
from tests.caller import Caller, Reply
from tests.faults import victims
from tests.faults.judging import Told, faults_of
from tests.faults.victims import Victim
from tests.in_process import InProcess
from tests.processes import wait_for
from workers.left_behind import TURN
from workers.sweep import LOCK
from workers.taking import WORKERS

WORKER_POINTS: Final = (
    "taking", "taken", "taken_over", "reading", "read", "searched", "writing", "written", "renewing", "renewed",
    "run_writing", "run_written", "committing", "committed", "settled", "replied_partly", "finished",
)  # fmt: skip
SWEEP_POINTS: Final = (
    "sweep_locked", "searched", "writing", "written", "run_writing", "run_written", "sweep_changed", "sweep_told",
)  # fmt: skip
ROUNDS_MAX: Final = 8
"""Rounds until the point must have been passed often enough."""
ANSWERS_MS: Final = 120_000
"""Above all that a busy machine needs; a request that is lost is never answered."""


class NeverReached(AssertionError):
    """The process was not killed: nothing was tested."""


class DiedByItself(AssertionError):
    """A process ended that nobody has killed: a crash, and not the fault that was to be tried."""


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the processes of one case find Redis and the store."""

    redis_url: str
    store_url: str
    twin: str = ""

    @property
    def in_memory(self) -> bool:
        """Whether what a process has stored ends with it."""
        return self.store_url.startswith("memory:")

    def env(self, **settings: object) -> dict[str, str]:
        """The environment of a process of this broker."""
        env = {"BROKER_REDIS_URL": self.redis_url, "BROKER_DATASTORE_URL": self.store_url, "BROKER_SKEW_MS": "0"}
        return env | {f"BROKER_{name.upper()}": str(value) for name, value in settings.items()}

    def worker(self, **settings: object) -> Victim:
        """A worker; of the twin, where the case is about one."""
        return Victim(victims.worker, self.env(**settings), self.twin)

    def sweep(self, **settings: object) -> Victim:
        """A sweep that ends after one pass."""
        return Victim(victims.sweep, self.env(**settings))


def armed(point: str, passing: int) -> Mapping[str, object]:
    """The settings of a process that is to be killed."""
    return {"faults": f"{point}@{passing}", "faults_allowed": 1}


@dataclass(slots=True)
class Rescue:
    """One worker that will be killed, and the other that goes on."""

    broker: Broker
    connection: redis.Redis
    victim: Victim
    before: list[Victim]
    other: Victim | None = None

    def look(self) -> None:
        """Once the victim is dead: nobody has heard of it, and another worker starts.

        Raises:
          DiedByItself: one of them has ended by something else than its kill.
        """
        serving = self.other or self.victim
        if serving.exit is None:
            return
        if serving is self.other or not serving.killed:
            raise DiedByItself(f"a worker ended by itself, with {serving.exit}")
        _nobody_has_heard_of_them(self.connection)
        self.other = self.broker.worker()

    def end(self) -> None:
        """Both, and whatever came before them."""
        for each in (self.victim, self.other, *self.before):
            if each is not None:
                each.end()


def kill_a_worker(broker: Broker, point: str, *, passing: int = 1) -> list[str]:
    """Rounds of a job's life until the worker was killed at `point` and its round was served; what is wrong then.

    Raises:
      NeverReached: it was not killed.
    """
    with (
        redis.Redis.from_url(broker.redis_url, socket_timeout=None) as connection,
        _rescue(broker, connection, point, passing) as rescue,
    ):
        told = Told()
        caller = Caller(connection)
        for number in range(ROUNDS_MAX):
            _round(caller, told, rescue, name=f"{number}")
            if rescue.other is not None:
                break
        else:
            raise NeverReached(f"{point}@{passing} was not passed in {ROUNDS_MAX} rounds")
        if broker.in_memory:
            return faults_of(connect("memory://"), told, stored=False)
        return _after_a_sweep(broker, connection, told)


def kill_a_sweep(broker: Broker, point: str, *, passing: int = 1) -> list[str]:
    """Dead leases, swept by one that is killed and by the next; what is wrong then.

    Raises:
      NeverReached: it was not killed.
    """
    with (
        redis.Redis.from_url(broker.redis_url, socket_timeout=None) as connection,
        closing(connect(broker.store_url)) as store,
    ):
        inside = InProcess(store, connection)  # its clock stands in the past: by Redis' time its leases are long over
        told = Told()
        jobs = [f"job-{number}" for number in range(4)]
        _ask(inside, told, *(inside.caller.make("submit", job_id=job) for job in jobs))
        _ask(inside, told, *(inside.caller.make("claim", job_id=job) for job in jobs))
        first, second = broker.sweep(**armed(point, passing)), None
        try:
            if first.wait() is None or not first.killed:
                raise NeverReached(f"{point}@{passing} was not passed in one sweep")
            connection.pexpire(LOCK, 1)  # what its time to live does
            wait_for(lambda: not connection.exists(LOCK), "the lock of the killed sweep has expired")
            second = broker.sweep()
            second.wait()
        finally:
            for each in (first, second):
                if each is not None:
                    each.end()
        inside.clock.advance(RedisClock(connection).now_ms() - inside.clock.now_ms())
        replies = _ask(inside, told, *(inside.caller.make("claim", job_id=job) for job in jobs))
        late = [f"not taken over: {each}" for each in replies if each["body"].get("epoch") != 2]
        return late + faults_of(store, told)


def _round(caller: Caller, told: Told, rescue: Rescue, *, name: str) -> None:
    """Jobs from their submission to their ends; each step is sent twice, and answered twice the same."""
    a, b, c, _ = jobs = [f"{each}-{name}" for each in "abcd"]
    queue = f"queue-{name}"
    make = caller.make
    _step(caller, told, rescue, [make("submit", job_id=job, queue=queue) for job in jobs])
    claims = [make("claim", job_id=a), make("claim", job_id=b), make("claim", job_id=c), make("claim", queue=queue)]
    leases = [_proof(reply) for reply in _step(caller, told, rescue, claims)]
    held = [lease for lease in leases if lease is not None]
    _step(caller, told, rescue, [make("renew", **lease) for lease in held])
    ends: dict[str, tuple[str, dict[str, Any]]] = {
        a: ("complete", {"result": {"by": name}}),
        b: ("fail", {"error": "x", "retryable": False}),
    }
    last: list[Request] = []
    for lease in held:
        op, more = ends.get(lease["job_id"], ("release", {}))
        last.append(make(op, **{**lease, **more}))
    _step(caller, told, rescue, last)


def _step(caller: Caller, told: Told, rescue: Rescue, requests: list[Request]) -> list[Reply]:
    """Send all, twice, and wait for the answers, whoever is killed meanwhile."""
    replies: list[Reply] = []
    for attempt in (1, 2):
        sent = [request.model_copy(update={"attempt": attempt}) for request in requests]
        caller.send(*sent)

        def all_answered(sent: list[Request] = sent) -> bool:
            rescue.look()
            return all(caller.has_reply(request) for request in sent)

        wait_for(all_answered, f"answers to {[request.op for request in sent]}", deadline_ms=ANSWERS_MS)
        replies = caller.replies(*sent)
        told.note(sent, replies)
    return replies


def _proof(reply: Reply) -> dict[str, Any] | None:
    """What the holder of a granted lease proves itself with."""
    body = reply["body"]
    return {name: body[name] for name in ("job_id", "epoch", "token")} if "token" in body else None


def _after_a_sweep(broker: Broker, connection: redis.Redis, told: Told) -> list[str]:
    with closing(connect(broker.store_url)) as store:
        inside = InProcess(store, connection)
        inside.clock.advance(RedisClock(connection).now_ms() - inside.clock.now_ms())
        inside.sweep()
        return faults_of(store, told)


@contextmanager
def _rescue(broker: Broker, connection: redis.Redis, point: str, passing: int) -> Iterator[Rescue]:
    before: list[Victim] = []
    if point == "taken_over":  # there must be something to take over
        before.append(broker.worker(**armed("taken", 1)))
        caller = Caller(connection, "another")
        caller.send(caller.make("claim", job_id="none"))
        before[0].wait()
        _nobody_has_heard_of_them(connection)
    rescue = Rescue(broker, connection, broker.worker(**armed(point, passing)), before)
    try:
        yield rescue
    finally:
        rescue.end()


def _nobody_has_heard_of_them(connection: redis.Redis) -> None:
    """What the time of `BROKER_TAKEOVER_MS` does to workers that are dead, and to the turn that one of them had."""
    connection.delete(TURN)
    for name in cast(list[bytes], connection.zrange(WORKERS, 0, -1)):
        connection.zadd(WORKERS, {name: 0})


def _ask(inside: InProcess, told: Told, *requests: Request) -> list[Reply]:
    replies = inside.ask(*requests)
    told.note(requests, replies)
    return replies
