"""The checker against the brute-force search, on as many small random histories as one likes.

`python -m tests.history.agreement [--histories 100000] [--first-seed 0]`: a third of them sound, the rest made up.
"""

import argparse
import math
import sys
from collections import Counter

import msgspec

from broker.history import Record, check
from tests.history.brute import possible
from tests.history.chance import corrupted, sound, wild


class Disagreement(AssertionError):
    """The two verdicts on a history differ. The message is the history, a line for each record."""


def judge(records: list[Record], name: str, *, drained: bool = False) -> bool:
    """The verdict that both agree on: whether the history is clean.

    Raises:
      Disagreement: they don't agree.
    """
    report, slow = check(records, drained=drained), possible(records, drained=drained)
    if report.ok != slow:
        lines = "\n".join(msgspec.json.encode(record).decode() for record in records)
        found = [(violation.rule.value, violation.why) for violation in report.violations]
        raise Disagreement(f"{name}: the search finds it {'clean' if slow else 'broken'}, the checker {found}\n{lines}")
    return slow


def compare(seeds: range) -> Counter[str]:
    """Judge three histories for each seed: a sound one, the same with lies in it, a wild one; how many were what."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        history = sound(seed)
        counts["grants"] += sum(1 for record in history if record.op == "claim" and record.type == "ok")
        for name, made in (("sound", history), ("lies", corrupted(history, seed)), ("wild", wild(seed))):
            clean = judge(made, f"{name}({seed})")
            if name == "sound" and not clean:
                raise Disagreement(f"both find sound({seed}) broken")
            counts[name if clean else f"{name}_caught"] += 1
            if clean and not judge(made, f"{name}({seed}) after a drain", drained=True):
                counts["unfinished"] += 1
    return counts


def main() -> None:
    """Compare, and say how many histories were what."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=100_000)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + math.ceil(options.histories / 3))
    try:
        counts = compare(seeds)
    except Disagreement as error:
        sys.exit(str(error))
    told = " ".join(f"{name}={number}" for name, number in sorted(counts.items()))
    print(f"agreement: ok histories={3 * len(seeds)} {told}")


if __name__ == "__main__":
    main()
