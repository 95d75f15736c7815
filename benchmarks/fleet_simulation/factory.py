"""One simulated factory: claims, runs, renews, ends its runs; and now and then it is gone, or only stands still."""

import random
from collections.abc import Callable
from functools import partial

from benchmarks.fleet_simulation.broker import Broker
from benchmarks.fleet_simulation.plan import Plan
from benchmarks.fleet_simulation.tally import Tally
from benchmarks.fleet_simulation.timeline import Timeline
from broker.answers import Answer, Word
from broker.documents import Lease


class Factory:
    """A machine that runs one job at a time."""

    def __init__(
        self, name: str, plan: Plan, broker: Broker, timeline: Timeline, tally: Tally, chance: random.Random
    ) -> None:
        self.name = name
        self.incarnation = ""
        self.up = False
        self._plan = plan
        self._broker = broker
        self._timeline = timeline
        self._tally = tally
        self._chance = chance
        self._life = 0
        """Counts starts and ends: what was planned in an earlier one does not happen."""
        self._held: tuple[str, Lease] | None = None
        self._fails = False
        self._ending = False
        """Whether it has sent the end of its run."""

    def start(self) -> None:
        """A new start, which knows nothing of the one before."""
        self._held = None
        self.incarnation = f"start-{self._life}"
        self._come_up()
        self._claim()

    def granted(self, job_id: str, lease: Lease) -> None:
        """A claim has won; where this factory has gone meanwhile, nobody knows."""
        if not self.up or lease.incarnation != self.incarnation:
            self._tally.orphan(job_id, self._timeline.now_ms)
            return
        self._held = (job_id, lease)
        self._believe(self._timeline.now_ms)
        self._fails = self._chance.random() < self._plan.failing
        self._later(self._plan.latency_ms + self._chance.expovariate(1 / self._plan.run_s) * 1_000, self._finish)
        self._later(self._plan.ttl_s * 1_000 / 6, self._renew)

    def _come_up(self) -> None:
        self.up = True
        self._life += 1
        self._later(self._chance.expovariate(1 / self._plan.dies_every_s) * 1_000, self._go)

    def _claim(self) -> None:
        self._held = None
        self._ending = False
        self._broker.ask("claim", partial(self._broker.claim, self, self.incarnation))

    def _renew(self) -> None:
        if not self._ending:
            self._ask("renew", self._broker.renew, self._renewed)

    def _renewed(self, job_id: str, answer: Answer, sent_ms: float) -> None:
        if answer.word is not Word.RENEWED:
            self._claim()
            return
        self._believe(sent_ms)
        self._tally.adopted(job_id)
        self._later(self._plan.ttl_s * 1_000 / 3 * self._chance.uniform(0.9, 1.1), self._renew)

    def _finish(self) -> None:
        self._ending = True
        if self._fails:
            self._ask("fail", self._broker.fail, self._finished)
        else:
            self._ask("complete", self._broker.complete, self._finished)

    def _finished(self, job_id: str, _answer: Answer, _sent_ms: float) -> None:
        self._tally.let_go(job_id)
        self._later(self._plan.latency_ms, self._claim)

    def _ask(
        self,
        op: str,
        act: Callable[[str, Lease], Answer],
        then: Callable[[str, Answer, float], None],
    ) -> None:
        """Send a holder's request; its answer is heard if this factory is still there, and still at that job."""
        if self._held is None:
            return
        held, life, sent_ms = self._held, self._life, self._timeline.now_ms

        def settled() -> None:
            answer = act(*held)
            if self._life == life and self._held is held:
                then(held[0], answer, sent_ms)

        self._broker.ask(op, settled)

    def _believe(self, sent_ms: float) -> None:
        """Until nine tenths of the ttl are over since it sent a renewal, or was granted the job."""
        assert self._held is not None, "only a holder believes"
        self._tally.believe(self._held[0], sent_ms + 0.9 * self._plan.ttl_s * 1_000)

    def _go(self) -> None:
        """Gone, or at a standstill: nothing that was planned happens."""
        self.up = False
        self._life += 1
        self._tally.deaths += 1
        if self._held is not None:
            self._tally.orphan(self._held[0], self._timeline.now_ms)
        stalled = self._held is not None and self._chance.random() < self._plan.stalled
        if self._held is not None and not stalled:
            self._tally.let_go(self._held[0])  # what is dead believes in nothing
        down_ms = self._chance.expovariate(1 / self._plan.down_s) * 1_000
        self._timeline.after(down_ms, self._go_on if stalled else self.start)

    def _go_on(self) -> None:
        """It has stood still, does not know it, and goes on with what it was at."""
        self._come_up()
        self._ending = False
        self._renew()
        self._later(self._chance.expovariate(1 / self._plan.run_s) * 1_000, self._finish)

    def _later(self, ms: float, act: Callable[[], None]) -> None:
        """Unless this start, or this run, is over by then."""
        life, held = self._life, self._held

        def happen() -> None:
            if self._life == life and (held is None or self._held is held):
                act()

        self._timeline.after(ms, happen)
