"""What `broker bench` does with the broker, and what it finds."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from broker.client import AsyncClient, ClientError
from broker.clock import steady_ns
from broker.messages import SubmitBody
from broker.wire_types import PAGE_MAX

ONE_BY_ONE = 100
"""Lives one at a time, at most: what a factory alone waits for."""
TTL_MS = 600_000


@dataclass(frozen=True, slots=True)
class Step:
    """One kind of request, so many at a time."""

    what: str
    outstanding: int
    per_s: float
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, what: str, outstanding: int, took_ns: Sequence[int], *, whole_ns: int) -> "Step":
        """From how long each took, and all of them."""
        ordered = sorted(took_ns)
        at = [ordered[len(ordered) * percent // 100] / 1e6 for percent in (50, 99)]
        return cls(what, outstanding, len(ordered) / max(1, whole_ns) * 1e9, *at)


@dataclass(slots=True)
class Figures:
    """Everything that was found."""

    queue: str
    steps: list[Step] = field(default_factory=list)
    wrong: int = 0
    """Jobs that were not granted once, renewed and completed."""
    first: str = ""
    """What the first of them was told."""

    def shown(self) -> dict[str, Any]:
        """The `--json` shape."""
        return {"queue": self.queue, "steps": [asdict(step) for step in self.steps]}


async def measure(connect: Callable[[], AsyncClient], *, jobs: int, outstanding: int) -> Figures:
    """Submit `jobs` jobs to a queue of their own, take them through their lives, and see where they ended."""
    figures = Figures(f"bench-{secrets.token_hex(4)}")
    names = [f"{figures.queue}-{number}" for number in range(jobs)]
    async with connect() as client:
        begin = steady_ns()
        bodies = [SubmitBody(job_id=name, queue=figures.queue, payload={"n": name}, ttl_ms=TTL_MS) for name in names]
        refused = [reply.summary for reply in await client.submit_many(bodies) if not reply.good]
        if refused:
            figures.wrong, figures.first = len(refused), refused[0]
            return figures
        whole_ns = steady_ns() - begin
        figures.steps.append(Step.of("submit", min(jobs, 512), [whole_ns // jobs] * jobs, whole_ns=whole_ns))
        alone = min(ONE_BY_ONE, jobs // 2)
        await _live(client, names[:alone], 1, figures)
        await _live(client, names[alone:], outstanding, figures)
        if not figures.wrong and (done := await _succeeded(client, figures.queue)) != jobs:
            figures.wrong, figures.first = jobs - done, "not all are succeeded in the store"
    return figures


async def _live(client: AsyncClient, names: Sequence[str], outstanding: int, figures: Figures) -> None:
    """Each job's life, `outstanding` at the same time."""
    took: dict[str, list[int]] = {"claim": [], "renew": [], "complete": []}
    source = iter(names)

    async def timed(what: str, ask: Callable[[], Awaitable[Any]]) -> Any:
        begin = steady_ns()
        reply = await ask()
        took[what].append(steady_ns() - begin)
        return reply

    async def life(name: str) -> str:
        """What went wrong, or nothing."""
        grant = await timed("claim", lambda: client.claim(name))
        if not grant.granted or grant.body["epoch"] != 1:
            return str(grant.summary)
        fence = {"epoch": grant.body["epoch"], "token": grant.body["token"]}
        for what, ask in (("renew", client.renew), ("complete", client.complete)):
            reply = await timed(what, lambda ask=ask: ask(name, **fence))  # type: ignore[misc]  # a default binds it
            if not reply.good:
                return str(reply.summary)
        return ""

    async def one_after_the_other() -> None:
        for name in source:
            try:
                problem = await life(name)
            except ClientError as error:
                problem = str(error)
            if problem:
                figures.wrong += 1
                figures.first = figures.first or problem

    begin = steady_ns()
    await asyncio.gather(*(one_after_the_other() for _ in range(outstanding)))
    whole_ns = steady_ns() - begin
    figures.steps += [Step.of(what, outstanding, each, whole_ns=whole_ns) for what, each in took.items() if each]


async def _succeeded(client: AsyncClient, queue: str) -> int:
    """How many jobs of the queue the store shows as succeeded."""
    found, cursor = 0, None
    while True:
        reply = await client.jobs(state="succeeded", queue=queue, limit=PAGE_MAX, cursor=cursor)
        found += len(reply.body["jobs"])
        cursor = reply.body["cursor"]
        if cursor is None:
            return found
