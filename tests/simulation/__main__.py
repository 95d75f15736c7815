"""`python -m tests.simulation SEED` tells one world step by step; `--seeds FROM:TO` judges many."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.simulation.run import Summary, run, trace

CHUNK = 5
"""Few, so that every process has something to do until the end."""
SAY_EVERY_S = 20
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 where nothing was wrong, and enough happened."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", nargs="?", type=int, help="tell this world step by step")
    parser.add_argument("--seeds", default="0:2000", metavar="FROM:TO", help="judge these worlds (default %(default)s)")
    parser.add_argument("--long", action="store_true", help="worlds of twice the length, as `make soak` has them")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    if options.seed is not None:
        wrong = trace(options.seed, _say, long=options.long)
        _say(f"simulation: {'failed' if wrong else 'ok'} seed={options.seed} wrong={len(wrong)}")
        return bool(wrong)
    first, last = (int(part) for part in options.seeds.split(":"))
    return _many(range(first, last), options.processes, long=options.long)


def _many(seeds: range, processes: int, *, long: bool) -> int:
    began = time.monotonic()
    summary = Summary()
    interrupted = _judge(seeds, processes, summary, began, long=long)
    missing = summary.missing()
    _say(f"faults: {' '.join(f'{kind}={count}' for kind, count in sorted(summary.struck.items()))}")
    for rare in missing:
        _say(f"too rare: {rare}")
    ok = not summary.wrong and not missing
    counts = " ".join(
        f"{name}={summary.counts[name]}"
        for name in ("requests", "grants", "completions", "expiries", "stale_tried", "stale_refused")
    )
    if interrupted:
        make = "soak" if long else "simulate"
        _say(f"interrupted; go on with: make {make} SEEDS={seeds.start + summary.worlds}:{seeds.stop}")
    _say(
        f"simulation: {'ok' if ok else 'failed'} seeds={summary.worlds} failing={len(summary.wrong)} {counts} "
        f"faults={summary.struck.total()} seconds={time.monotonic() - began:.0f}"
    )
    return not ok or (INTERRUPTED if interrupted else 0)


def _judge(seeds: range, processes: int, summary: Summary, began: float, *, long: bool) -> bool:
    """Judge all worlds, in their order, and say now and then how far it is. Whether it was interrupted."""
    said = began
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ProcessPoolExecutor(processes, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
        try:
            for found in pool.map(partial(run, long=long), chunks):
                for seed, wrong in found.wrong.items():
                    replay = f"make simulate{' LONG=1' * long} SEED={seed}"
                    _say(f"seed {seed}: {'; '.join(wrong[:3])}\n  replay it with: {replay}")
                summary.add(found)
                if time.monotonic() - said > SAY_EVERY_S:
                    said = time.monotonic()
                    _say(_how_far(seeds, summary, said - began))
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is being judged is waited for
            pool.shutdown(wait=False, cancel_futures=True)
            return True
    return False


def _how_far(seeds: range, summary: Summary, seconds: float) -> str:
    reached, each_s = seeds.start + summary.worlds, seconds / summary.worlds
    left_min = each_s * (seeds.stop - reached) / 60
    return f"seeds {seeds.start}:{reached} judged, {len(summary.wrong)} failing, some {left_min:.0f} minutes left"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
