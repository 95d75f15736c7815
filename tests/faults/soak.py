"""Kills a process at every point, over and over, on every store: `make soak-faults`, `TIMES=200` by default."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
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


def cases(stores: list[str]) -> Iterator[Case]:
    """Every one. A memory store has no sweep of its own process."""
    for store in stores:
        yield from (Case(store, "worker", point) for point in WORKER_POINTS)
        if store != "memory":
            yield from (Case(store, "sweep", point) for point in SWEEP_POINTS)


def soak(stores: list[str], times: int, seed: int) -> bool:
    """Run all cases `times` times and print a table; whether all of them held."""
    kills: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="soak-faults-")))
        server = start_embedded(StateDir.at(folder / "redis"))
        stack.callback(server.stop)
        opened = {store: _opener(store, folder, stack) for store in stores}
        random = Random(seed)
        chosen = list(cases(stores))
        for turn in range(times):
            for case in chosen:
                with redis.Redis.from_url(server.url) as connection:
                    connection.flushall()
                found = case.run(Broker(server.url, opened[case.store]()), random)
                kills[case.store, f"{case.process} {case.point}"] += 1
                wrong += [f"turn {turn} {case}: {each}" for each in found]
                for each in found:
                    _say(f"WRONG {case}: {each}")
            _say(f"{turn + 1}/{times} turns, {kills.total()} kills, {len(wrong)} wrong")
    for (store, what), count in sorted(kills.items()):
        _say(f"{store:8} {what:24} {count:6}")
    verdict = "ok" if not wrong else "failed"
    _say(f"soak-faults: {verdict} seed={seed} cases={len(chosen)} kills={kills.total()} wrong={len(wrong)}")
    return not wrong


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
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--stores", default=",".join(STORES))
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    victims.prepare()
    sys.exit(0 if soak(given.stores.split(","), given.times, given.seed) else 1)
