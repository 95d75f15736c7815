"""What `broker bench` does with the broker, and what it finds."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from broker.answers import Word
from broker.client import AsyncClient, ClientError, Reply
from broker.clock import steady_ns
from broker.messages import SubmitBody
from broker.wire_types import PAGE_MAX

ONE_BY_ONE = 100
"""Lives one at a time, at most: what a factory alone waits for."""
TTL_MS = 600_000


CLEAN_UP_S = 20
"""How long an interrupted run takes at most to cancel what is not finished."""
PASS_PAUSE_S = 0.05
"""Before it is looked once more: what was on its way may have arrived."""
CANCELLED_AT_ONCE = 64

Held: TypeAlias = dict[str, dict[str, Any]]
"""What proves the leases that stand, by job."""


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
    refused: Reply | None = None
    """The answer to it, where this key may not ask for that."""

    def note_wrong(self, told: Reply | str, *, jobs: int = 1) -> None:
        """So many more jobs did not go as they should."""
        self.wrong += jobs
        if not self.first:
            self.first = told if isinstance(told, str) else told.summary
            if isinstance(told, Reply) and told.answer is Word.UNAUTHORIZED:
                self.refused = told

    def shown(self) -> dict[str, Any]:
        """The `--json` shape."""
        return {"queue": self.queue, "steps": [asdict(step) for step in self.steps]}


async def measure(
    connect: Callable[[], AsyncClient], *, jobs: int, outstanding: int, interrupted: Callable[[str], None]
) -> Figures:
    """Submit `jobs` jobs to a queue of their own, take them through their lives, and see where they ended.

    Cancelled, it first clears up: no lease stands, and what is not finished is cancelled. `interrupted` is told of it.
    """
    figures = Figures(f"bench-{secrets.token_hex(4)}")
    async with connect() as client:
        held: Held = {}
        try:
            await _put_through(client, figures, held, jobs=jobs, outstanding=outstanding)
        except asyncio.CancelledError:
            interrupted(f"interrupted: the jobs of queue {figures.queue} are cancelled, for {CLEAN_UP_S} s at most")
            if (problem := await _clean_up(client, figures.queue, held)) is not None:
                interrupted(f"some jobs of queue {figures.queue} stay: {problem}")
            raise
    return figures


async def _put_through(client: AsyncClient, figures: Figures, held: Held, *, jobs: int, outstanding: int) -> None:
    names = [f"{figures.queue}-{number}" for number in range(jobs)]
    begin = steady_ns()
    bodies = [SubmitBody(job_id=name, queue=figures.queue, payload={"n": name}, ttl_ms=TTL_MS) for name in names]
    refused = [reply for reply in await client.submit_many(bodies) if not reply.good]
    if refused:
        figures.note_wrong(refused[0], jobs=len(refused))
        return
    whole_ns = steady_ns() - begin
    figures.steps.append(Step.of("submit", min(jobs, 512), [whole_ns // jobs] * jobs, whole_ns=whole_ns))
    alone = min(ONE_BY_ONE, jobs // 2)
    await _live(client, names[:alone], 1, figures, held)
    await _live(client, names[alone:], outstanding, figures, held)
    if not figures.wrong and (done := await _succeeded(client, figures.queue)) != jobs:
        figures.note_wrong("not all are succeeded in the store", jobs=jobs - done)


async def _live(client: AsyncClient, names: Sequence[str], outstanding: int, figures: Figures, held: Held) -> None:
    """Each job's life, `outstanding` at the same time."""
    took: dict[str, list[int]] = {"claim": [], "renew": [], "complete": []}
    source = iter(names)

    async def timed(what: str, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        begin = steady_ns()
        reply = await ask()
        took[what].append(steady_ns() - begin)
        return reply

    async def life(name: str) -> Reply | str | None:
        """What went wrong, if anything."""
        grant = await timed("claim", lambda: client.claim(name))
        if not grant.granted or grant.body["epoch"] != 1:
            return grant
        held[name] = fence = {"epoch": grant.body["epoch"], "token": grant.body["token"]}
        for what, ask in (("renew", client.renew), ("complete", client.complete)):
            reply = await timed(what, lambda ask=ask: ask(name, **fence))  # type: ignore[misc]  # a default binds it
            if not reply.good:
                return reply
        del held[name]
        return None

    async def one_after_the_other() -> None:
        for name in source:
            try:
                problem = await life(name)
            except ClientError as error:
                problem = str(error)
            if problem is not None:
                figures.note_wrong(problem)

    begin = steady_ns()
    await asyncio.gather(*(one_after_the_other() for _ in range(outstanding)))
    whole_ns = steady_ns() - begin
    figures.steps += [Step.of(what, outstanding, each, whole_ns=whole_ns) for what, each in took.items() if each]


async def _clean_up(client: AsyncClient, queue: str, held: Held) -> str | None:
    """End the leases that stand and cancel the jobs that are not over. What hindered that, or None.

    What is on its way arrives meanwhile, and the client gives back the grants of claims that were given up. So it is
    over once nothing was found twice.
    """
    nothing = 0
    try:
        async with asyncio.timeout(CLEAN_UP_S):
            while nothing < 2:
                names = [name for state in ("ready", "leased") for name in await _some(client, state, queue)]
                nothing = 0 if names else nothing + 1
                for start in range(0, len(names), CANCELLED_AT_ONCE):
                    some = names[start : start + CANCELLED_AT_ONCE]
                    replies = await asyncio.gather(*(client.cancel(name) for name in some))
                    # Behind its cancel the release of a job acknowledges it.
                    await asyncio.gather(*(client.release(name, **held.pop(name)) for name in some if name in held))
                    if refused := [reply for reply in replies if reply.answer is Word.UNAUTHORIZED]:
                        await asyncio.gather(*(client.release(name, **fence) for name, fence in held.items()))
                        return refused[0].summary
                await asyncio.sleep(PASS_PAUSE_S)
    except TimeoutError:
        return "there are too many"
    except ClientError as error:
        return str(error)
    return None


async def _some(client: AsyncClient, state: str, queue: str) -> list[str]:
    """The first such jobs: among many of other queues a page may be empty, and not the last."""
    cursor = None
    while True:
        reply = await client.jobs(state=state, queue=queue, limit=PAGE_MAX, cursor=cursor)
        if not reply.good:
            return []
        cursor = reply.body["cursor"]
        if reply.body["jobs"] or cursor is None:
            return [job["id"] for job in reply.body["jobs"]]


async def _succeeded(client: AsyncClient, queue: str) -> int:
    """How many jobs of the queue the store shows as succeeded."""
    found, cursor = 0, None
    while True:
        reply = await client.jobs(state="succeeded", queue=queue, limit=PAGE_MAX, cursor=cursor)
        found += len(reply.body["jobs"])
        cursor = reply.body["cursor"]
        if cursor is None:
            return found
