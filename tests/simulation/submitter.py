"""Who submits jobs until each is acknowledged, and does now and then what an operator does."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from broker.answers import Word
from broker.client import BrokerTimeout, ClientError, Reply
from broker.client.aio import AsyncClient
from broker.limits import Limit, Rate
from tests.simulation.factory import QUEUE, REPEATS_MAX, Shared, answered

LATE_MS = 12_000
"""More than a request is on its way after its sender has given up."""
OPEN_EVERY_S = 3
SOMETIMES = "disk"
"""A key that is limited now and then, while jobs run."""
SCHEDULE = "minutely"
FIRED = {"queue": QUEUE, "concurrency": ["gpu"], "max_failures": 9, "max_expiries": 20}
LOCKS = ("repo", "repo", "repo@shared", "repo/src", "repo/src/app@shared")
AT_MOST_MS = {"run_timeout_ms": 3_000, "stuck_after_ms": 3_000, "timeout_ms": 30_000, "ttl_ms": 5_000}
"""What a job may say of its times."""

UNIQUE, SUPERSEDES, LIMITS, SCHEDULES, TIMES, FAMILIES = FEATURES = (
    "unique",
    "supersedes",
    "limits",
    "schedules",
    "times",
    "families",
)
"""What jobs may have in common besides locks; each world has some of it."""
LIMITED: Sequence[Mapping[str, Limit]] = (
    {},
    {"key:gpu": Limit(capacity=1)},
    {"key:gpu": Limit(capacity=2), f"queue:{QUEUE}": Limit(capacity=3)},
    {f"queue:{QUEUE}": Limit(capacity=1)},
    {"factory:f0": Limit(capacity=1), "key:gpu": Limit(rate=Rate(count=1, per_ms=4_000))},
    {f"queue:{QUEUE}": Limit(capacity=2, rate=Rate(count=2, per_ms=6_000))},
)


class Submitter:
    """Submits jobs, then operates."""

    def __init__(self, name: str, connect: Callable[[], AsyncClient], shared: Shared, *, jobs: int) -> None:
        self._connect = connect
        self._shared = shared
        self._name = name
        self._jobs = [f"{name}-{number}" for number in range(jobs)]

    async def run(self) -> None:
        """Until every job is acknowledged, or given up, and the faults are over."""
        shared = self._shared
        while not shared.stopping:
            try:
                async with self._connect() as client:
                    if shared.limits is None:
                        await self._prepare(client)
                    while self._jobs:
                        await self._submit(client, self._jobs.pop())
                        await asyncio.sleep(shared.random.uniform(0, 4))
                    shared.submitting.discard(self._name)
                    while not shared.calm:
                        await self._operate(client)
                        await asyncio.sleep(shared.random.uniform(0.5, 8))
                    return
            except ClientError:
                await asyncio.sleep(0.2)

    async def _prepare(self, client: AsyncClient) -> None:
        """What is to stand before there is a job. A limit that is not acknowledged is not counted on."""
        standing = {}
        for name, limit in LIMITED[self._shared.limited].items():
            rate = None if limit.rate is None else (limit.rate.count, limit.rate.per_ms)
            reply = await self._until_known(client.set_limit, name, capacity=limit.capacity, rate=rate)
            if reply is not None and reply.good:
                standing[name] = limit
        if SCHEDULES in self._shared.features:
            await self._until_known(client.put_schedule, SCHEDULE, cron="* * * * *", job=FIRED, catch_up="all")
        if self._shared.limits is None:  # nobody else was faster
            self._shared.limits = standing

    async def _submit(self, client: AsyncClient, job_id: str) -> None:
        reply = await self._until_known(client.submit, {"n": 1}, job_id=job_id, **self._fields())
        if reply is not None and reply.good and not reply.body.get("joined"):
            self._shared.acknowledged.append(job_id)

    def _fields(self) -> dict[str, Any]:
        random, acknowledged, features = self._shared.random, self._shared.acknowledged, self._shared.features
        fields: dict[str, Any] = {"queue": QUEUE, "max_failures": 9, "max_expiries": 20}
        roll = random.random()
        if roll < 0.4:
            fields["locks"] = random.sample(LOCKS, random.choice((1, 1, 2)))
        elif roll < 0.55 and acknowledged:
            fields |= {"depends_on": [random.choice(acknowledged)], "on_parent_failure": "ignore"}
        elif roll < 0.65:
            fields["priority"] = random.randint(-5, 5)
        elif roll < 0.7:
            fields["fairness_key"] = "tenant"
        if FAMILIES in features and acknowledged and random.random() < 0.6:
            fields["depends_on"] = random.choices(acknowledged, k=2)
            fields["on_parent_failure"] = random.choice(("ignore", "cancel"))
        if TIMES in features and random.random() < 0.85:
            said = random.choice(list(AT_MOST_MS))
            fields[said] = random.randint(AT_MOST_MS[said] // 3, AT_MOST_MS[said])
            fields["on_stuck"] = random.choice(("flag", "revoke"))
        if UNIQUE in features and random.random() < 0.85:
            fields["unique"] = {"key": "u", "policy": random.choice(("reject", "replace", "join"))}
        if SUPERSEDES in features and random.random() < 0.85:
            fields["supersedes"] = "s"
        if LIMITS in features and random.random() < 0.7:
            fields["concurrency"] = random.choice((["gpu"], ["gpu"], ["gpu", SOMETIMES]))
        return fields

    async def _until_known(self, ask: Callable[..., Awaitable[Reply]], *given: Any, **fields: Any) -> Reply | None:
        """The answer; the same request is repeated while its outcome is unknown. None: it stayed so."""
        request_id = None
        for _ in range(REPEATS_MAX):
            try:
                reply = await ask(*given, **fields, request_id=request_id)
            except BrokerTimeout as error:
                request_id = error.request_id
                continue
            if reply.answer is not Word.OUTCOME_UNKNOWN:
                return reply
            request_id = reply.request_id
        return None

    async def _operate(self, client: AsyncClient) -> None:
        shared = self._shared
        random = shared.random
        acts: list[tuple[float, Callable[[], Awaitable[Reply]]]] = [
            (0.04, lambda: client.pause_queue(QUEUE)),
            (0.08, lambda: client.resume_queue(QUEUE)),
            (0.04, lambda: client.drain(random.choice(shared.names))),
            (0.06, lambda: client.resume(random.choice(shared.names))),
        ]
        if LIMITS in shared.features:
            acts += [
                (0.08, lambda: client.set_limit(f"key:{SOMETIMES}", capacity=random.choice((1, 2)))),
                (0.06, lambda: client.remove_limit(f"key:{SOMETIMES}")),
            ]
        if SCHEDULES in shared.features:
            to = random.choice(("paused", "active", "active", "removed"))
            acts.append((0.2, lambda: client.change_schedule(SCHEDULE, to)))
            acts.append((0.06, lambda: client.put_schedule(SCHEDULE, cron="* * * * *", job=FIRED, replace=True)))
        if shared.acknowledged:
            job_id = random.choice(shared.acknowledged)
            acts += [
                (0.25, lambda: client.cancel(job_id)),
                (0.25, lambda: self._redrive(client, job_id)),
                (0.1, lambda: client.revoke(job_id)),
                (0.05, lambda: client.revoke(job_id, hold=True)),
                (0.05, lambda: client.hold(job_id)),
                (0.1, lambda: client.lift(job_id)),
                (0.1, lambda: client.job(job_id)),
            ]
        [act] = random.choices([act for _, act in acts], [share for share, _ in acts])
        await answered(act())

    def _redrive(self, client: AsyncClient, job_id: str) -> Awaitable[Reply]:
        """Which may have its effect late, on a job that has ended by then: it is asked for half a ttl, then is on its
        way, and the worker that has taken it may stand still for one and a half.
        """
        shared = self._shared
        shared.open_again_until_ms = shared.now_ms() + 2 * shared.ttl_ms + LATE_MS
        return client.redrive(job_id)


class Opener:
    """An operator who opens again what others have closed, or close yet: their requests may still come."""

    def __init__(self, connect: Callable[[], AsyncClient], shared: Shared) -> None:
        self._connect = connect
        self._shared = shared

    async def run(self) -> None:
        """Until the world stops."""
        shared = self._shared
        while not shared.stopping:
            try:
                async with self._connect() as client:
                    while not shared.stopping:
                        await self._open(client)
                        await asyncio.sleep(OPEN_EVERY_S)
            except ClientError:
                await asyncio.sleep(0.2)

    async def _open(self, client: AsyncClient) -> None:
        shared = self._shared
        open_again = {"job": client.lift, "factory": client.resume, "queue": client.resume_queue}
        for kind, name in shared.closed():
            await answered(open_again[kind](name))
