"""The world of one seed: who lives in it, what befalls it, and how it comes to rest."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

from broker import replies
from broker.client import FenceGate
from broker.client.aio import AsyncClient
from broker.client.call import Address
from broker.client.exchange_async import AsyncExchange
from broker.clock import SET_BACK_MS
from broker.controls import Controls
from broker.coordinator import Context
from broker.documents import Job
from broker.entropy import SeededEntropy
from broker.history import Record, Recorder, check
from broker.settings import Settings
from broker.transitions import Rules
from broker.wire_types import WAIT_MS_MAX
from datastore import Datastore
from datastore.memory import MemoryDatastore
from tests.simulation.factory import QUEUE, Factory, Shared
from tests.simulation.faults import Dice
from tests.simulation.file_store import FileLine, TrueFile
from tests.simulation.judge import Judge
from tests.simulation.lines import ClientListener, ClientSender, RedisHost
from tests.simulation.loop import SimulatedLoop
from tests.simulation.process import Process
from tests.simulation.redis_side.lua import Lua
from tests.simulation.redis_side.server import Server
from tests.simulation.serving import Desk, Sweeper, Worker
from tests.simulation.store import Line, TrueStore
from tests.simulation.submitter import FEATURES, LIMITED, LIMITS, Opener, Submitter
from tests.simulation.timeline import BrokerClock, HostClock, Timeline

SETTLE_MS = 400_000
"""How long everything may take to settle once the faults are over."""
QUIET_MS = WAIT_MS_MAX + 10_000
"""What is left of waits, grants unread and dead workers is gone by then: a wait may be of `WAIT_MS_MAX` again where the
clock was set back under it, and is ended by the next look.
"""
WORKERS = 2
SWEEPS = 2
FACTORIES = 3
SUBMITTERS = (3, 2)
"""How many jobs each of them submits."""
FILE_SHARE = 0.25
"""Worlds whose store is a file of transactions."""
FAR = 250
UNFINISHED = (b"broker:inflight:", b"broker:in:", b"rq:queue:", b"broker:waiting", b"broker:unread")
ENDING = b"broker:waiting:for:"
"""What a claim was woken for: its copy may have been answered, and the note ends by itself."""
DRIFT_MAX = 0.03
"""Clocks this far from the broker's: together with the skew allowance a holder's margin covers it."""
WILD = (0.6, 1.6)
"""Rates of a clock that is broken: nothing is promised about the moment its holder stops, everything else is."""

Twin: TypeAlias = Callable[[Datastore, Process], Datastore]
"""Puts something broken between a process and the store."""


def sound(store: Datastore, _process: Process) -> Datastore:
    """Nothing broken."""
    return store


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a world has faults, and the settings of its fleet: short, so that it sees several ttls."""

    faulty_ms: float
    features: float
    """The share of worlds that have one of the features of jobs."""
    settings: Settings
    rules: Rules

    @classmethod
    def short(cls) -> "Timing":
        """Of the worlds that every test run judges: less happens in each, so that more of them have each feature."""
        return cls._of(faulty_ms=16_000, features=0.45, ttl_ms=6_000)

    @classmethod
    def long(cls) -> "Timing":
        """Of those of `make soak`: two thirds more befalls each."""
        return cls._of(faulty_ms=32_000, features=0.35, ttl_ms=10_000)

    @classmethod
    def _of(cls, *, faulty_ms: float, features: float, ttl_ms: int) -> "Timing":
        settings = Settings(
            ttl_ms=ttl_ms, skew_ms=1_000, takeover_ms=3_000, cancel_grace_ms=4_000, sweep_interval_ms=4_000
        )
        rules = Rules(ttl_ms, 1_000, 4_000, backoff_base_ms=200, backoff_max_ms=3_000)
        return cls(faulty_ms, features, settings, rules)


class World:
    """Everything that one seed decides."""

    def __init__(
        self,
        seed: int,
        *,
        lua: Lua,
        timing: Timing,
        twin: Twin = sound,
        told: Callable[[str], None] | None = None,
    ) -> None:
        """`told`: what is to hear of every step."""
        self._told = told
        self._random = Random(seed)
        self.timeline = Timeline(self._random)
        self.dice = Dice(self._random, None if told is None else self.tell)
        self._behind_ms = 0
        """By how much the clock was set back, as far as that is waited for."""
        self.broker_clock = BrokerClock(self.timeline, ahead_ms=self._random.randrange(60_000))
        self.server = Server(lua, self.broker_clock.now_ms, None if told is None else self.tell)
        self.host = RedisHost(self.server, self.timeline, self.dice)
        self.judge = Judge(None if told is None else self.tell)
        self._twin = twin
        in_file = twin is sound and self._random.random() < FILE_SHARE
        self.store = self.judge.store = (TrueFile if in_file else TrueStore)(self.judge.wrote)
        self._timing = timing
        self._ttl_ms = ttl_ms = timing.settings.ttl_ms
        self._desk = Desk(self.host, timing.settings, self._context)
        self._born = 0
        self._wild: set[HostClock] = set()
        self._workers: list[Process] = []
        self._sweeps: list[Process] = []
        self._factories: list[SimulatedLoop] = []
        self._names: dict[SimulatedLoop, str] = {}
        self._records: list[Record] = []
        """What every client wrote down."""
        gate = FenceGate(MemoryDatastore(etag_prefix="g"))
        self.shared = Shared(self._random, self.judge.counts, lambda: self.timeline.now_ms, gate, ttl_ms)
        self.shared.accuse = self.judge.accuse
        self.shared.closed = self._closed
        self.shared.features = frozenset(name for name in FEATURES if self._random.random() < timing.features)
        self.shared.limited = self._random.randrange(1, len(LIMITED)) if LIMITS in self.shared.features else 0
        self.judge.between.limits = lambda: self.shared.limits or {}
        self.judge.between.now_ms = lambda: self.timeline.now_ms
        self.judge.between.jumps = self.broker_clock.jumps
        self.judge.taken_over = self._check_beliefs
        self.server.observe(self.judge.pushed)

    def tell(self, what: str) -> None:
        """To whoever listens, with the time."""
        if self._told is not None:
            self._told(f"{self.timeline.now_ms:10.1f} {what}")

    def run(self) -> Judge:
        """Faults, then none; everything must settle. What was wrong is in the judge's hands."""
        try:
            self._begin()
            self.timeline.run(until_ms=self._timing.faulty_ms)
            self._heal()
            self.timeline.run(until_ms=self._timing.faulty_ms + SETTLE_MS + self._behind_ms, done=self._settled)
            self.shared.stopping = True
            self.timeline.run(until_ms=self.timeline.now_ms + QUIET_MS, done=self._quiet)
            self._check_the_end()
        finally:
            for process in (*self._workers, *self._sweeps):
                process.crash()
            for loop in self._factories:
                loop.crash()
        return self.judge

    def _begin(self) -> None:
        for _ in range(WORKERS):
            self._start_worker()
        for _ in range(SWEEPS):
            self._start_sweep()
        self.shared.names = tuple(f"f{number}" for number in range(FACTORIES))
        for name in self.shared.names:
            self._start_factory(name)
        for number, jobs in enumerate(SUBMITTERS):
            self._start_submitter(f"s{number}", jobs)
        for event, act in self._events().items():
            for _ in range(self.dice.times(event)):
                self.timeline.after(self._random.uniform(500, self._timing.faulty_ms - 500), self._counted(event, act))

    def _events(self) -> dict[str, Callable[[], None]]:
        random = self._random
        return {
            "worker_crash": lambda: self._crash_one(self._workers, self._start_worker),
            "worker_pause": lambda: random.choice(self._workers).pause(random.uniform(500, 1.5 * self._ttl_ms)),
            "sweep_crash": lambda: self._crash_one(self._sweeps, self._start_sweep),
            "sweep_pause": lambda: random.choice(self._sweeps).pause(random.uniform(500, 1.5 * self._ttl_ms)),
            "factory_crash": self._crash_factory,
            "factory_pause": lambda: random.choice(self._factories).pause(random.uniform(500, 3 * self._ttl_ms)),
            "clock_ahead": lambda: self.broker_clock.jump(random.randint(100, 3 * self._ttl_ms)),
            "clock_back": lambda: self._set_back(_now_and_then_far(random.randint(100, 3 * self._ttl_ms))),
            "redis_flushed": self.server.keys.clear,
            "redis_restarted": self._restart_redis,
            "redis_rolled_back": self._roll_back_redis,
            "redis_full": self._fill_redis,
        }

    def _set_back(self, ms: int) -> None:
        """What is ahead by less than `SET_BACK_MS` waits until the clock has caught up, as it is meant to."""
        self.broker_clock.jump(-ms)
        self._behind_ms += min(ms, SET_BACK_MS)

    def _counted(self, event: str, act: Callable[[], None]) -> Callable[[], None]:
        def happen() -> None:
            self.dice.struck[event] += 1
            self.tell(f"EVENT   {event}")
            act()

        return happen

    def _heal(self) -> None:
        self.dice.stop()
        self.shared.calm = True
        loop = self._loop(self._clock(), "opener")
        self._start(loop, "opener", Opener(self._connector("opener", loop), self.shared).run())
        for process in (*self._workers, *self._sweeps):
            process.pause(0)

    def _closed(self) -> list[tuple[str, str]]:
        """What is held, drained or paused, in truth."""
        controls = Controls(self.store)
        closed = [("job", job_id) for job_id in self.judge.held()]
        closed += [("factory", name) for name in self.shared.names if controls.factory(name).drain is not None]
        return closed if controls.queue(QUEUE).pause is None else [*closed, ("queue", QUEUE)]

    def _settled(self) -> bool:
        if self.shared.submitting or self.timeline.now_ms < self.shared.open_again_until_ms:
            return False
        return self.judge.all_finished(self.shared.acknowledged)

    def _quiet(self) -> bool:
        return self.timeline.steps % 50 == 0 and not (self._unfinished() or any(self.judge.off_the_record()))

    def _unfinished(self) -> list[bytes]:
        """What must not be forgotten in Redis: requests queued and in hand, claims that wait, grants nobody read."""
        names = self.server.keys.names()
        return [name for name in names if name.startswith(UNFINISHED) and not name.startswith(ENDING)]

    def _clock(self) -> HostClock:
        wild = self._random.random() < 0.06
        drift = self._random.choice((0, 0, DRIFT_MAX))
        rate = self._random.uniform(*WILD) if wild else 1 + self._random.uniform(-drift, drift)
        clock = HostClock(self.timeline, start_ms=self._random.randrange(10**9), rate=rate)
        if wild:
            self._wild.add(clock)
        return clock

    def _process(self, kind: str) -> Process:
        self._born += 1
        return Process(f"{kind}{self._born}", self.timeline, self._clock(), self._died)

    def _died(self, name: str, error: BaseException) -> None:
        self.judge.accuse(f"{name} died of {error!r}")

    def _start_worker(self) -> None:
        process = self._process("w")
        self._workers.append(process)
        process.start(Worker(process, self._desk).run)

    def _start_sweep(self) -> None:
        process = self._process("s")
        self._sweeps.append(process)
        process.start(Sweeper(process, self._desk).run)

    def _context(self, process: Process) -> Context:
        line: Datastore = Line(self._twin(self.store, process), self.store, process, self.dice, self.timeline)
        if isinstance(self.store, TrueFile):
            line = FileLine(self.store, process, self.dice)
        return Context(line, self._timing.rules, SeededEntropy(self._random.getrandbits(64)), process.wait)

    def _start_factory(self, name: str) -> None:
        clock = self._clock()
        loop = self._loop(clock, name)
        self._start(loop, name, Factory(name, clock, self._connector(name, loop), self.shared).run())

    def _start_submitter(self, name: str, jobs: int) -> None:
        self.shared.submitting.add(name)
        loop = self._loop(self._clock(), name)
        self._start(loop, name, Submitter(name, self._connector(name, loop), self.shared, jobs=jobs).run())

    def _loop(self, clock: HostClock, name: str) -> SimulatedLoop:
        failed: Callable[[BaseException], None] = lambda error: self._died(name, error)  # noqa: E731  # bound to the name
        # A loop that needs no sockets: the rest of the interface is never called.
        return SimulatedLoop(self.timeline, clock, failed)  # type: ignore[abstract]

    def _start(self, loop: SimulatedLoop, name: str, main: Coroutine[Any, Any, None]) -> None:
        self._factories.append(loop)
        self._names[loop] = name
        loop.start(main)

    def _connector(self, name: str, loop: SimulatedLoop) -> Callable[[], AsyncClient]:
        random = self._random
        incarnation = f"{random.getrandbits(32):08x}"

        def connect() -> AsyncClient:
            address = Address(factory_id=name, incarnation=incarnation, instance=f"{random.getrandbits(32):08x}")
            sender = ClientSender(self.host, loop, random.choice(("rq", "intake")), self.judge.sent)
            listener = ClientListener(self.host, loop, replies.reply_key(name, address.instance))
            exchange = AsyncExchange(
                address,
                listener,
                sender,
                entropy=SeededEntropy(random.getrandbits(64)),
                attempt_ms=3_000,
                steady_ms=loop.clock.steady_ms,
                history=Recorder(address, self._records.append, now_ns=self.timeline.now_ns),
            )
            return AsyncClient(exchange, sender, timeout_ms=self._ttl_ms // 2)

        return connect

    def _crash_one(self, processes: list[Process], start: Callable[[], None]) -> None:
        """SIGKILL, and a supervisor that starts another."""
        victim = self._random.choice(processes)
        self.tell(f"killed  {victim.name}")
        processes.remove(victim)
        victim.crash()
        start()

    def _crash_factory(self) -> None:
        victim = self._random.choice(self._factories)
        name = self._names[victim]
        self.tell(f"killed  {name}")
        victim.crash()
        self._factories.remove(victim)
        if name in self.shared.names:
            self._start_factory(name)
        self.shared.submitting.discard(name)

    def _restart_redis(self) -> None:
        """With or without its data; it forgets the scripts in any case."""
        self.host.go_down(self._random.uniform(100, 5_000))
        self.server.restart()
        if self._random.random() < 0.5:
            self.server.keys.clear()

    def _fill_redis(self) -> None:
        """Somebody fills its memory, and takes that away again."""
        self.server.full = True

        def empty() -> None:
            self.server.full = False

        self.timeline.after(self._random.uniform(50, 6_000), empty)

    def _roll_back_redis(self) -> None:
        """A replica is promoted that lacks the last writes."""
        snapshot = self.server.keys.snapshot()

        def promote() -> None:
            self.host.go_down(self._random.uniform(10, 2_000))
            self.server.restart()
            self.server.keys.restore(snapshot)

        self.timeline.after(self._random.uniform(10, 4_000), promote)

    def _check_beliefs(self, was: Job) -> None:
        """I9: as the broker takes a lease away, its holder has stopped to count on it, by its own clock."""
        belief = self.shared.beliefs.get((was.id, was.epoch))
        if belief is None or belief.clock in self._wild or not belief.stands():
            return
        if any(jump >= belief.since_ms - 2 * self._ttl_ms for jump in self.broker_clock.jumps):
            return
        if was.lease is not None and was.lease.granted_ms < self.broker_clock.shown_before_ms:
            return  # by this time it is older than an earlier start of its factory, if only that one has registered
        self.judge.accuse(f"I9 {was.id} epoch {was.epoch} was taken over while its holder counts on it")

    def _check_the_end(self) -> None:
        self.judge.check_the_end(self.shared.acknowledged, now_ms=self.broker_clock.now_ms())
        for job_id, epoch in self.shared.completed.items():
            job = self.judge.job(job_id)
            if job is None or job.state.value != "succeeded" or job.epoch != epoch:
                self.judge.accuse(
                    f"I4 {job_id} was completed at epoch {epoch}, and is {job and (job.state, job.epoch)}"
                )
        for name in self._unfinished():
            self.judge.accuse(f"liveness: {name.decode()} is left over")
        self._check_the_history()

    def _check_the_history(self) -> None:
        """What clients were told must be what a sound broker can have said.

        Progress is written to the run under the job as it was read, which a stale read shows before its end.
        """
        fenced = not self.dice.struck["read_stale"]
        for each in check(record for record in self._records if fenced or record.op != "progress").violations:
            self.judge.accuse(f"history {each.rule}: {each.job} at epoch {each.epoch}: {each.why}")


def _now_and_then_far(back_ms: int) -> int:
    """One of eight jumps is of minutes or hours."""
    return back_ms * FAR if back_ms % 8 == 0 else back_ms


__all__ = ["Timing", "Twin", "World", "sound"]
