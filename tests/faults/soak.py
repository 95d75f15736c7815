"""Kills a process at every point, over and over, on every store: `make soak-faults`, `TIMES=200` by default."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from uuid import uuid4

import redis

from tests.cosmos.emulator import running_emulator
from tests.cosmos.fault_proxy import FaultProxy
from tests.faults import victims
from tests.faults.killing import SWEEP_POINTS, WORKER_POINTS, Broker, kill_a_sweep, kill_a_worker
from workers.embedded import start_embedded
from workers.state_dir import StateDir

STORES = ("sqlite", "cosmos", "memory")
ONCE = {"taken_over", "sweep_locked", "sweep_changed", "sweep_told"}
"""Points that one run passes once."""
PASSINGS_MAX = 3
TURNS_TOGETHER = 2
"""Turns on one server, which is then started anew: so often is said how far it is."""


@dataclass(frozen=True, slots=True)
class Case:
    """A point in a kind of process, on a store."""

    store: str
    process: str
    point: str

    def run(self, broker: Broker, random: Random) -> list[str]:
        """Kill once; what is wrong afterwards."""
        passing = 1 if self.point in ONCE else random.randint(1, PASSINGS_MAX)
        kill = kill_a_worker if self.process == "worker" else kill_a_sweep
        try:
            return kill(broker, self.point, passing=passing)
        except AssertionError as error:
            return [str(error)]


def cases(stores: Sequence[str]) -> Iterator[Case]:
    """Every one. A memory store has no sweep of its own process."""
    for store in stores:
        yield from (Case(store, "worker", point) for point in WORKER_POINTS)
        if store != "memory":
            yield from (Case(store, "sweep", point) for point in SWEEP_POINTS)


@dataclass(frozen=True, slots=True)
class Share:
    """Some turns: in each of them every case once. A turn is the same whoever takes it, and beside which others."""

    stores: tuple[str, ...]
    turns: tuple[int, ...]
    seed: int

    def run(self) -> "Found":
        """Kill, on a server and stores of its own."""
        found = Found()
        victims.prepare()
        with ExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="soak-faults-")))
            server = start_embedded(StateDir.at(folder / "redis"))
            stack.callback(server.stop)
            opened = {store: _opener(store, folder, stack) for store in self.stores}
            for turn in self.turns:
                random = Random(f"{self.seed} {turn}")
                for case in cases(self.stores):
                    with redis.Redis.from_url(server.url) as connection:
                        connection.flushall()
                    wrong = case.run(Broker(server.url, opened[case.store]()), random)
                    found.kills[case.store, f"{case.process} {case.point}"] += 1
                    found.wrong += [f"turn {turn} {case}: {each}" for each in wrong]
        return found


@dataclass(slots=True)
class Found:
    """What some turns have shown."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def soak(stores: Sequence[str], turns: range, seed: int, processes: int) -> bool:
    """Take all turns, several at once, and print a table; whether all of them held."""
    shares = [
        Share(tuple(stores), tuple(turns[at : at + TURNS_TOGETHER]), seed)
        for at in range(0, len(turns), TURNS_TOGETHER)
    ]
    total, done = Found(), 0
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for share, found in zip(shares, pool.map(Share.run, shares), strict=True):
            done += len(share.turns)
            total.kills += found.kills
            total.wrong += found.wrong
            for each in found.wrong:
                _say(f"WRONG {each}")
            _say(
                f"turns {turns.start}:{turns.start + done} of {turns.stop}, {total.kills.total()} kills, "
                f"{len(total.wrong)} wrong"
            )
    for (store, what), count in sorted(total.kills.items()):
        _say(f"{store:8} {what:24} {count:6}")
    verdict = "ok" if not total.wrong else "failed"
    _say(
        f"soak-faults: {verdict} seed={seed} turns={turns.start}:{turns.stop} cases={len(total.kills)} "
        f"kills={total.kills.total()} wrong={len(total.wrong)}"
    )
    return not total.wrong


def _opener(store: str, folder: Path, stack: ExitStack) -> Callable[[], str]:
    """What names an empty store each time it is asked."""
    if store == "sqlite":
        return lambda: f"sqlite:///{folder / uuid4().hex}.db"
    if store == "memory":
        return lambda: "memory://"
    emulator = stack.enter_context(running_emulator())
    proxy = stack.enter_context(FaultProxy(emulator).running())
    return lambda: f"cosmos://127.0.0.1:{proxy.port}/test-{uuid4().hex}/jobs?http=1&create=1"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=200, help="how often each case is tried (default %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="go on with this turn, where an earlier run ended")
    parser.add_argument("--stores", default=",".join(STORES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    held = soak(given.stores.split(","), range(given.first, given.times), given.seed, given.processes)
    sys.exit(0 if held else 1)
