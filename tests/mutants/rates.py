"""`make mutation`, its last step: of mutmut's mutants in each module, how many the tests killed.

`python -m tests.mutants.rates [FOLDER] [--survivors]`; FOLDER is what `mutmut run` has made (`mutants`).
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from mutmut.stats import status_by_exit_code

RATE_MIN = 0.9
KILLED = frozenset({"killed", "timeout", "segfault"})
"""A mutant that runs for ever is noticed too."""


def main() -> int:
    """Print a line for each module and one for all. 1 where fewer than nine in ten were killed, or some not tried."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("mutants"))
    parser.add_argument("--survivors", action="store_true", help="name the mutants that nobody noticed")
    options = parser.parse_args()
    total: Counter[str] = Counter()
    for found in sorted(options.folder.rglob("*.meta")):
        codes: dict[str, int | None] = json.loads(found.read_text(encoding="utf-8"))["exit_code_by_key"]
        statuses = {name: str(status_by_exit_code[code]) for name, code in codes.items()}
        counts = Counter(statuses.values())
        total += counts
        if statuses:
            print(_line(found.relative_to(options.folder).with_suffix("").as_posix(), counts))
        if options.survivors:
            print(*(f"    {status}: {name}" for name, status in statuses.items() if status not in KILLED), sep="\n")
    print(_line("mutation:", total))
    return 0 if _rate(total) >= RATE_MIN and not total["not checked"] else 1


def _line(name: str, counts: Mapping[str, int]) -> str:
    rest = " ".join(f"{status.replace(' ', '_')}={number}" for status, number in sorted(counts.items()))
    return f"{name:<36} {_rate(counts):6.1%} of {sum(counts.values())}: {rest}"


def _rate(counts: Mapping[str, int]) -> float:
    every = sum(counts.values())
    return sum(counts[status] for status in KILLED if status in counts) / every if every else 0.0


if __name__ == "__main__":
    sys.exit(main())
