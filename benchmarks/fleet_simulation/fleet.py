"""Brokers, factories and a stream of jobs, run until every job is over."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.fleet_simulation.broker import Broker
from benchmarks.fleet_simulation.factory import Factory
from benchmarks.fleet_simulation.plan import Plan
from benchmarks.fleet_simulation.tally import Tally
from benchmarks.fleet_simulation.timeline import Timeline

MakeBroker = Callable[[Plan, Timeline, Tally, random.Random], Broker]


@dataclass(frozen=True, slots=True)
class Ran:
    """A fleet after its last job."""

    plan: Plan
    tally: Tally
    brokers: tuple[Broker, ...]
    span_ms: float
    events: int

    @property
    def redis_busy(self) -> float:
        """The share of the time that Redis was at work; of several, the busiest."""
        return max(broker.redis.busy_ms for broker in self.brokers) / self.span_ms

    @property
    def workers_busy(self) -> float:
        """The same of workers, all of one Redis together."""
        return max(broker.workers.busy_ms for broker in self.brokers) / self.span_ms / self.plan.workers


def run(plan: Plan, *, make_broker: MakeBroker = Broker, tell: Callable[[str], None] = lambda _line: None) -> Ran:
    """Simulate it. The same plan gives the same run."""
    timeline, tally, chance = Timeline(), Tally(), random.Random(plan.seed)
    brokers = tuple(make_broker(plan, timeline, tally, chance) for _ in range(plan.redis))
    for number in range(plan.factories):
        factory = Factory(f"factory-{number}", plan, brokers[number % plan.redis], timeline, tally, chance)
        timeline.at(chance.uniform(0, 1_000), factory.start)
    for broker in brokers:
        timeline.at(chance.uniform(0, plan.ttl_s * 250), broker.sweep)
    _submit_next(plan, timeline, brokers, chance, 0)
    told = plan.jobs // 10

    def over() -> bool:
        nonlocal told
        ended = tally.ended.total()
        if ended >= told < plan.jobs:
            tell(f"{ended:,} jobs ended, {timeline.now_ms / 1_000:,.0f} s of the fleet's time")
            told += plan.jobs // 10
        return ended == plan.jobs

    timeline.run(over)
    return Ran(plan, tally, brokers, timeline.now_ms, timeline.happened)


def _submit_next(
    plan: Plan, timeline: Timeline, brokers: tuple[Broker, ...], chance: random.Random, number: int
) -> None:
    """One burst after the other, each job at the home that its id says."""
    last = min(plan.jobs, number + plan.burst)
    for job in range(number, last):
        home = brokers[job % plan.redis]
        home.ask("submit", partial(home.submit, f"job-{job}"))
    if last < plan.jobs:
        pause_ms = chance.expovariate(plan.arrivals_per_s / plan.burst) * 1_000
        timeline.after(pause_ms, lambda: _submit_next(plan, timeline, brokers, chance, last))
