"""`make mutation`, its last step: of mutmut's mutants in each module, how many the tests killed.

`python -m tests.mutants.rates [FOLDER] [--survivors]`; FOLDER is what `mutmut run` has made (`mutants`).
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

RATE_MIN = 0.9
STATUSES: Mapping[int | None, str] = {
    1: "killed",
    3: "killed",  # an error in pytest itself, which a sound module does not cause
    0: "survived",
    5: "no_tests",
    33: "no_tests",
    None: "not_tried",
}
"""By the exit status that mutmut notes of a mutant (3.8); any other one is a run without an end, or a crash."""
KILLED = frozenset({"killed", "killed_by_time"})


def main() -> int:
    """Print a line for each module and one for all. 1 where fewer than nine in ten of those tried were killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("mutants"))
    parser.add_argument("--survivors", action="store_true", help="name the mutants that nobody noticed")
    options = parser.parse_args()
    total: Counter[str] = Counter()
    for found in sorted(options.folder.rglob("*.meta")):
        codes: dict[str, int | None] = json.loads(found.read_text(encoding="utf-8"))["exit_code_by_key"]
        statuses = {name: STATUSES.get(code, "killed_by_time") for name, code in codes.items()}
        counts = Counter(statuses.values())
        total += counts
        if statuses:
            print(_line(found.relative_to(options.folder).with_suffix("").as_posix(), counts))
        if options.survivors:
            missed = {name: status for name, status in statuses.items() if status in ("survived", "no_tests")}
            print(*(f"    {status}: {name}" for name, status in missed.items()), sep="\n")
    print(_line("mutation:", total))
    return 0 if _rate(total) >= RATE_MIN else 1


def _line(name: str, counts: Mapping[str, int]) -> str:
    each = " ".join(f"{status}={number}" for status, number in sorted(counts.items()))
    return f"{name:<36} {_rate(counts):6.1%} of {_tried(counts)}: {each}"


def _rate(counts: Mapping[str, int]) -> float:
    return sum(counts.get(status, 0) for status in KILLED) / max(1, _tried(counts))


def _tried(counts: Mapping[str, int]) -> int:
    return sum(counts.values()) - counts.get("not_tried", 0)


if __name__ == "__main__":
    sys.exit(main())
