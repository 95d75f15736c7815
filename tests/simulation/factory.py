"""A factory as its users write one: production's asyncio client and lease guard, and work that takes its time."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from broker.answers import Word
from broker.client import BrokerTimeout, ClientError, FenceGate, LeaseLost, Reply, StaleEpoch
from broker.client.aio import AsyncClient
from broker.client.async_lease import AsyncLease
from broker.limits import Limits
from tests.simulation.timeline import HostClock

QUEUE = "q"
REPEATS_MAX = 6
PAST_MAX = 8
RACE_EVERY_MS = 1_500


@dataclass(slots=True)
class Belief:
    """What a holder believes to hold, by its own clock."""

    lease: AsyncLease
    clock: HostClock
    since_ms: float
    """On the timeline: since then at the latest it counts on its clock and the broker's running alike."""
    ending: bool = False
    """It has asked for the end of the lease; what it believes from then on is not held against it."""

    def stands(self) -> bool:
        """Whether it would still do what others see."""
        lease = self.lease
        return not self.ending and not lease.lost.is_set() and not lease._tenure.over(self.clock.steady_ms())


@dataclass(slots=True)
class Shared:
    """What the factories of one world have in common."""

    random: Random
    counts: Counter[str]
    now_ms: Callable[[], float]
    gate: FenceGate
    """What the work writes to: it heeds the epoch."""
    ttl_ms: int
    acknowledged: list[str] = field(default_factory=list)
    completed: dict[str, int] = field(default_factory=dict)
    """Jobs whose holders were told that they are complete, at this epoch."""
    beliefs: dict[tuple[str, int], Belief] = field(default_factory=dict)
    past: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Fences of leases that each factory once had, its earlier starts included."""
    accuse: Callable[[str], None] = lambda _what: None
    open_again_until_ms: float = 0
    """Until then a redrive that was asked for may open a job again."""
    submitting: set[str] = field(default_factory=set)
    """Who has more jobs to come."""
    features: frozenset[str] = frozenset()
    """What jobs of this world have in common; see the submitter."""
    limited: int = 0
    """By which limits; see there, too."""
    names: tuple[str, ...] = ()
    """Of the factories."""
    closed: Callable[[], Sequence[tuple[str, str]]] = tuple
    """What an operator has closed, by kind and name: a held job, a factory that drains, a paused queue."""
    limits: Limits | None = None
    """Those that stand; None: they are still to be set, before there is a job, and before there is a claim.

    A limit holds from the next batch on: one that is under way meanwhile may have read that there is none.
    """
    stopping: bool = False
    calm: bool = False
    """The faults are over: do what there is to do, and nothing else."""


class Factory:
    """Claims, works, and ends what it began; sometimes it tries what only a holder may, as one that is none."""

    def __init__(self, name: str, clock: HostClock, connect: Callable[[], AsyncClient], shared: Shared) -> None:
        self._name = name
        self._clock = clock
        self._connect = connect
        self._shared = shared
        self._past = shared.past.setdefault(name, [])

    async def run(self) -> None:
        """Until the world stops. A client that can't connect tries again."""
        random, shared = self._shared.random, self._shared
        while not shared.stopping:
            try:
                async with self._connect() as client:
                    if random.random() < 0.3:
                        await answered(client.register(capacity=2))
                    while not shared.stopping:
                        if shared.limits is not None:
                            await self._one_thing(client)
                        await asyncio.sleep(random.uniform(0, 1.5))
            except ClientError:
                await asyncio.sleep(0.2)

    async def _one_thing(self, client: AsyncClient) -> None:
        roll = self._shared.random.random()
        if self._shared.calm or roll < 0.55:
            await self._work_on(client, self._guard(client))
        elif roll < 0.7:
            await self._race(client)
        elif roll < 0.82:
            await self._several(client)
        else:
            await self._as_if_it_still_held(client)

    def _guard(self, client: AsyncClient) -> AsyncLease:
        random, jobs = self._shared.random, self._shared.acknowledged
        if jobs and random.random() < 0.25:
            return client.lease(random.choice(jobs))
        return client.lease(queue=QUEUE, wait_ms=random.choice((0, 0, 3_000, 8_000)))

    async def _race(self, client: AsyncClient) -> None:
        """All who race in the same second ask for the same job at the same moment."""
        shared = self._shared
        if not shared.acknowledged:
            return
        round_number = int(shared.now_ms() // RACE_EVERY_MS) + 1
        await asyncio.sleep((round_number * RACE_EVERY_MS - shared.now_ms()) / 1_000)
        await self._work_on(client, client.lease(shared.acknowledged[round_number % len(shared.acknowledged)]))

    async def _several(self, client: AsyncClient) -> None:
        """A claim for two jobs: each is kept by a guard of its own."""
        claimed = await answered(client.claim(queue=QUEUE, count=2))
        if claimed is not None:
            await asyncio.gather(*(self._work_on(client, client.keep(grant)) for grant in claimed.grants))

    async def _work_on(self, client: AsyncClient, lease: AsyncLease) -> None:
        shared = self._shared
        key = None
        try:
            async with lease:
                key = (lease.job_id, lease.epoch)
                belief = shared.beliefs[key] = Belief(lease, self._clock, shared.now_ms())
                self._remember(lease)
                shared.counts["held"] += 1
                await self._work(client, lease)
                belief.ending = True
                await self._end(client, lease)
        except (ClientError, _Broken):
            pass
        finally:
            if key is not None:
                shared.beliefs.pop(key, None)

    async def _work(self, client: AsyncClient, lease: AsyncLease) -> None:
        random, shared = self._shared.random, self._shared
        long = random.random() < 0.25
        for _ in range(random.randint(1, 3)):
            await asyncio.sleep(random.uniform(0, shared.ttl_ms / 2_000 if long else 0.6))
            lease.check()
            try:
                shared.gate.admit(lease.job_id, lease.epoch)
            except StaleEpoch:
                shared.counts["effects_refused"] += 1
                raise
            if random.random() < 0.3 and not shared.calm:
                await self._as_if_it_still_held(client, lease)
            if random.random() < 0.15:
                await lease.progress({"at": shared.now_ms()})
            if lease.cancel_requested:
                await lease.release("cancelled")
                return

    async def _end(self, client: AsyncClient, lease: AsyncLease) -> None:
        if lease._ended:
            return
        roll = self._shared.random.random()
        if self._shared.calm or roll < 0.65:
            await self._complete(client, lease)
        elif roll < 0.8:
            await lease.fail("it broke")
        elif roll < 0.88:
            await lease.release("not now")
        elif roll < 0.93:
            raise _Broken("the work broke")
        elif roll < 0.96:
            await lease.hand_over(self._shared.random.choice(self._shared.names))

    async def _complete(self, client: AsyncClient, lease: AsyncLease) -> None:
        """An unknown outcome is asked for until it is known, as the client's errors say."""
        fence: dict[str, Any] = {"epoch": lease.epoch, "token": lease.token}
        try:
            reply = await lease.complete({"by": self._name})
        except BrokerTimeout as error:
            repeated = await self._repeated(
                lambda again: client.complete(lease.job_id, **fence, request_id=again), error
            )
            if repeated is None:
                return
            reply = repeated
        if reply.good:
            self._shared.completed[lease.job_id] = lease.epoch

    async def _repeated(self, ask: Callable[[str], Awaitable[Reply]], error: BrokerTimeout) -> Reply | None:
        for _ in range(REPEATS_MAX):
            await asyncio.sleep(self._shared.random.uniform(0.1, 2))
            reply = await answered(ask(error.request_id))
            if reply is not None and reply.answer is not Word.OUTCOME_UNKNOWN:
                return reply
        return None

    def _remember(self, lease: AsyncLease) -> None:
        self._past.append({"job_id": lease.job_id, "epoch": lease.epoch, "token": lease.token})
        del self._past[:-PAST_MAX]

    async def _as_if_it_still_held(self, client: AsyncClient, holding: AsyncLease | None = None) -> None:
        """What a process does that was stopped for long and looks at nothing: it may only succeed while it holds.

        `holding`: another start of this factory has the job now; then what it had earlier of this job.
        """
        random, shared = self._shared.random, self._shared
        past = self._past
        if holding is not None:
            past = [each for each in past if each["job_id"] == holding.job_id and each["epoch"] < holding.epoch]
        if not past:
            return
        fence = random.choice(past)
        ask = random.choice((client.complete, client.renew, client.release, client.progress))
        shared.counts["stale_tried"] += 1
        if ask == client.renew and fence["epoch"] % 2:  # all at once, of which some may stand
            await answered(client.renew_many(past))
            return
        more: dict[str, Any] = {"progress": 1} if ask == client.progress else {}
        reply = await answered(ask(**fence, **more))
        if reply is not None and reply.good and ask == client.complete:
            shared.completed[fence["job_id"]] = fence["epoch"]


class _Broken(Exception):
    """The work itself failed."""


async def answered(asked: Awaitable[Reply]) -> Reply | None:
    """The reply; None where there is none."""
    try:
        return await asked
    except LeaseLost:
        return None
    except ClientError:
        return None
