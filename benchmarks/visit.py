"""One visit of a row: a fresh server, its workers, its driver, some windows, and a look into the store after each."""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contestant import Command, Contestant, Stage
from benchmarks.measure import Measure
from benchmarks.processes import BenchError, Processes, Violation, machine_idle_s, marked, scratch
from benchmarks.server import start_server
from benchmarks.telling import IDLE_PERCENT

POOL_SPARE = 1.3
"""How many more records are made than the highest rate so far would use."""
POOL_MIN = 8_000
"""Two seconds of making them: rows of one claim at a time vary most."""
FIRST_GUESS_PER_S = {1: 3_000}
GUESS_PER_S = 30_000
"""Of a row that was not measured yet, by its outstanding requests."""
MAKE_GUESSED_S = 8.0
"""For so long at most records are made for a guess: it shows how fast a row is, and wastes little on a slow one."""
MAKE_KNOWN_S = 60.0
NUMBERS_OF_A_WINDOW = 10_000_000
PATIENCE_S = 120
"""For a driver to make its records and drive one window."""


Watch = Callable[[], Callable[[], Mapping[str, Any]]]
"""Called as a window begins; what it returns, once it is over."""


class Rates:
    """How fast each row was at most so far: how many records its next window needs."""

    def __init__(self) -> None:
        self._per_s: dict[tuple[str, int], float] = {}

    def pool(self, row: str, outstanding: int, seconds: float) -> tuple[int, float]:
        """Records for a window of this length, and for how many seconds they may be made."""
        if (known := self.needed(row, [outstanding], seconds)) is not None:
            return known, MAKE_KNOWN_S
        guess = FIRST_GUESS_PER_S.get(outstanding, GUESS_PER_S)
        return _records(guess, outstanding, seconds), MAKE_GUESSED_S

    def needed(self, row: str, levels: Sequence[int], seconds: float) -> int | None:
        """Records for a window of this length at each of these levels; None where one of them was not measured yet."""
        if any((row, level) not in self._per_s for level in levels):
            return None
        return sum(_records(self._per_s[row, level], level, seconds) for level in levels)

    def learn(self, measure: Measure) -> None:
        """Remember what a window showed, if it is the most so far: a slow round must not leave the next one short."""
        key = measure.row, measure.outstanding
        self._per_s[key] = max(measure.per_s, self._per_s.get(key, 0.0))


def _records(per_s: float, outstanding: int, seconds: float) -> int:
    return max(POOL_MIN, round(per_s * seconds * POOL_SPARE) + outstanding)


def visit(
    contestant: Contestant,
    levels: Sequence[int],
    *,
    round: int,
    warm_s: float,
    window_s: float,
    rates: Rates,
    repeats: int = 0,
) -> list[Measure]:
    """Measure a row at each number of outstanding requests; anew, up to `repeats` times, where records ran out.

    Raises:
      BenchError: it can't be measured, a process of an earlier row lives, or a record has no single winner.
    """
    measures = _visit(contestant, levels, round, warm_s, window_s, rates)
    for _ in range(repeats):
        short = [each.outstanding for each in measures if not each.whole(window_s)]
        if not short:
            break
        again = {each.outstanding: each for each in _visit(contestant, short, round, warm_s, window_s, rates)}
        measures = [
            max(each, again.get(each.outstanding, each), key=lambda measure: measure.window_s) for each in measures
        ]
    return measures


def _visit(
    contestant: Contestant, levels: Sequence[int], round: int, warm_s: float, window_s: float, rates: Rates
) -> list[Measure]:
    if survivors := marked():
        raise BenchError(f"processes of an earlier row still run: {survivors}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(scratch()))
        processes = Processes(folder)
        stack.callback(processes.close)
        server = start_server(folder, processes)
        if strangers := server.strangers():
            raise BenchError(f"somebody is connected to the server of {contestant.name} already: {strangers}")
        stage = Stage(folder, server, processes, rates.needed(contestant.name, levels, warm_s + window_s))
        try:
            contestant.serve(stage)
            return _windows(contestant, stage, levels, round, warm_s, window_s, rates)
        except BenchError as error:
            told = "\n".join(processes.said(role) for role in ("worker", "driver", "sweep"))
            raise type(error)(f"{contestant.name}: {error}\n{told}") from error


def _windows(
    contestant: Contestant,
    stage: Stage,
    levels: Sequence[int],
    round: int,
    warm_s: float,
    window_s: float,
    rates: Rates,
) -> list[Measure]:
    measures: list[Measure] = []
    first = wins = 0
    driver: Driver | None = None
    for level in levels:
        command = contestant.driver(stage, level)
        if driver is None or driver.command != command:
            if driver is not None:
                driver.end()
            driver = Driver(command, stage.processes)
        pool, make_s = rates.pool(contestant.name, level, warm_s + window_s) if contestant.pooled else (0, 0.0)
        order = {"outstanding": level, "warm_s": warm_s, "window_s": window_s, "first": first}
        order |= {"pool": pool, "make_s": make_s}
        result, used, told = driver.window(order, partial(contestant.watch, stage))
        first += NUMBERS_OF_A_WINDOW
        wins += result["wins"]
        if result["refused"]:
            raise BenchError(f"{result['refused']} claims were refused; every one should win")
        measure = measured(contestant.name, round, level, {**result, **told}, used)
        rates.learn(measure)
        measures.append(replace(measure, commands=stage.processes.commands()))
    if (found := contestant.winners(stage)) not in (wins, None):
        raise Violation(f"{wins} claims were granted, but the store shows {found} winners")
    return measures


def measured(row: str, round: int, outstanding: int, result: dict[str, Any], used: dict[str, float]) -> Measure:
    """A window as it is kept."""
    known = {"count", "seconds", "wins", "quantiles_us", "p99_us"}
    count = max(1, result["count"])
    quantiles = tuple(result["quantiles_us"])
    return Measure(
        row=row,
        round=round,
        outstanding=outstanding,
        per_s=result["count"] / result["seconds"],
        p50_us=quantiles[len(quantiles) // 2] if quantiles else 0.0,
        p99_us=result["p99_us"],
        window_s=result["seconds"],
        cpu_us={role: seconds * 1e6 / count for role, seconds in used.items()},
        wins=result["wins"],
        quantiles_us=quantiles,
        extra={name: value for name, value in result.items() if name not in known},
    )


class Driver:
    """The harness's side of a driver's pipe."""

    def __init__(self, command: Command, processes: Processes) -> None:
        self.command = command
        self._processes = processes
        self._process = processes.start("driver", command.argv, env=command.env, talks=True)
        self._expect("ready")

    def window(self, order: dict[str, Any], watch: Watch) -> tuple[dict[str, Any], dict[str, float], Mapping[str, Any]]:
        """Drive one window: the result, the CPU seconds that each process used in it, and what watching it told."""
        assert self._process.stdin is not None
        patience = threading.Timer(PATIENCE_S, self._process.kill)
        patience.start()
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            self._expect("begin")
            self._processes.turn_looks()
            begin, idle_s, before = time.perf_counter(), machine_idle_s(), self._processes.cpu_s()
            told = watch()
            self._expect("end")
            seconds, idle_s, after = time.perf_counter() - begin, machine_idle_s() - idle_s, self._processes.cpu_s()
            self._processes.turn_looks()
            result: dict[str, Any] = json.loads(self._line())
        finally:
            patience.cancel()
        result[IDLE_PERCENT] = 100 * idle_s / seconds / (os.cpu_count() or 1)
        return result, {role: after[role] - before.get(role, 0.0) for role in after}, told()

    def end(self) -> None:
        """End it."""
        self._processes.end(self._process)

    def _expect(self, word: str) -> None:
        line = self._line()
        if line != word:
            raise BenchError(f"the driver said {line!r} where {word!r} was due")

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"the driver ended with status {self._process.wait()}")
        return line.rstrip("\n")
