"""One campaign: a fleet under load, fault upon fault, then a drain, then the verdict."""

from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from broker.clock import monotonic_ms, sleep_ms
from datastore import connect
from tests.chaos.faults import FAULTS, Stage
from tests.chaos.fleet import Fleet
from tests.chaos.judge import Verdict, judge
from tests.chaos.measure import baseline, rate, recovered_after_ms
from tests.chaos.plan import schedule
from tests.chaos.proxy import Proxy
from tests.chaos.screen import Injected, progress
from tests.chaos.servers import Servers
from tests.chaos.tail import Tail
from tests.chaos.work import DRAIN_FILE
from tests.faults.judging import TERMINAL, found

START_MS = 60_000
RECOVERY_MAX_MS = 30_000
DRAIN_MS = 90_000
POLL_MS = 50


class CampaignError(Exception):
    """The fleet did not start; the message says where to look."""


@dataclass(slots=True)
class Campaign:
    """What was done, and the stage it was done on."""

    folder: Path
    seed: int
    duration_ms: int
    factories: int = 8
    per_second: int = 25
    command_line: str = "workers.cli"
    warm_up_ms: int = 5_000
    kinds: tuple[str, ...] = tuple(FAULTS)
    injected: list[Injected] = field(default_factory=list)
    usual: float = 0.0
    kills: int = 0
    drained: bool = False

    def run(self) -> Verdict:
        """All of it. Nothing runs afterwards.

        Raises:
          CampaignError: the fleet does not serve.
        """
        (self.folder / "history").mkdir(parents=True)
        with ExitStack() as stack:
            servers = Servers(self.folder)
            stack.callback(servers.stop)
            proxy = stack.enter_context(Proxy(servers.socket))
            fleet = Fleet(
                self.folder,
                proxy.url,
                factories=self.factories,
                per_second=self.per_second,
                command_line=self.command_line,
            )
            stack.callback(fleet.close)
            stage = Stage(fleet, servers, proxy, Random(self.seed))
            tail = Tail(self.folder / "history")
            self._start(stage, tail)
            self._inject(stage, tail)
            stage.undo_due(all_of_them=True)
            self.drained = self._drain(stage)
            self.kills = stage.kills
            url = fleet.datastore_url
        with closing(connect(url)) as store:
            return judge(store, self.folder / "history")

    def _start(self, stage: Stage, tail: Tail) -> None:
        stage.fleet.start_broker()
        self._wait_for_broker(stage)
        stage.fleet.start_clients()
        until_ms = monotonic_ms() + START_MS
        while not tail.follow():
            if monotonic_ms() > until_ms:
                raise CampaignError(f"no job was completed within {START_MS} ms; see the logs in {self.folder}")
            sleep_ms(POLL_MS)
        began_ms = monotonic_ms()
        self._pass(stage, self.warm_up_ms)
        usual = baseline(tail.follow(), began_ms + self.warm_up_ms // 5, monotonic_ms())
        self.usual = min(usual, self.per_second)  # while a queue from the start is worked off, there is more

    def _wait_for_broker(self, stage: Stage) -> None:
        until_ms = monotonic_ms() + START_MS
        while not stage.fleet.serving():
            if monotonic_ms() > until_ms:
                raise CampaignError(f"the broker does not serve after {START_MS} ms; see {self.folder}")
            sleep_ms(POLL_MS)

    def _inject(self, stage: Stage, tail: Tail) -> None:
        began_ms = monotonic_ms()
        for step in schedule(self.seed, self.kinds):
            self._pass(stage, step.gap_ms)
            if monotonic_ms() - began_ms >= self.duration_ms:
                return
            fault_ms = monotonic_ms()
            ends_ms = FAULTS[step.kind](stage)
            if ends_ms is None:
                continue
            if step.upon_it is not None and (second_ms := FAULTS[step.upon_it](stage)) is not None:
                self.injected.append(Injected(step.upon_it, fault_ms, second_ms, None, alone=False))
                ends_ms = max(ends_ms, second_ms)
            took_ms = self._recovery(stage, tail, ends_ms)
            self.injected.append(Injected(step.kind, fault_ms, ends_ms, took_ms))
            now_ms = monotonic_ms()
            what = step.kind + (f" + {step.upon_it}" if step.upon_it else "")
            what += ": back after " + ("?" if took_ms is None else f"{took_ms / 1000:.1f} s")
            done = tail.follow()
            progress((now_ms - began_ms) / 1000, self.duration_ms / 1000, len(done), what, rate(done, now_ms - 1_000))

    def _recovery(self, stage: Stage, tail: Tail, ended_ms: int) -> int | None:
        """Wait until throughput is back; how long that took from the end of the fault."""
        while monotonic_ms() < ended_ms + RECOVERY_MAX_MS:
            self._pass(stage, POLL_MS)
            took_ms = recovered_after_ms(tail.follow(), ended_ms, self.usual, monotonic_ms())
            if took_ms is not None:
                return took_ms
        return None

    def _pass(self, stage: Stage, ms: int) -> None:
        """Let time pass, start again what has ended, and undo what is due."""
        until_ms = monotonic_ms() + ms
        while True:
            stage.undo_due()
            stage.fleet.tend()
            if (left_ms := until_ms - monotonic_ms()) <= 0:
                return
            sleep_ms(min(POLL_MS, left_ms))

    def _drain(self, stage: Stage) -> bool:
        """No more jobs, and every one there is comes to its end; whether it did in time."""
        (self.folder / DRAIN_FILE).touch()
        stage.fleet.stop_submitting()
        until_ms = monotonic_ms() + DRAIN_MS
        with closing(connect(stage.fleet.datastore_url)) as store:
            while any(body["state"] not in TERMINAL for _, body in found(store, "job")):
                if monotonic_ms() > until_ms:
                    return False
                self._pass(stage, 10 * POLL_MS)
        self._pass(stage, 3_000)  # those who come back too late are heard, and the sweep ends what is open
        return True
