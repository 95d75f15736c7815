"""`make bounds`: what could grow without bound does not, measured. SCALE=1 is a million requests and a million jobs."""

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bounds.rig import Rig
from tests.bounds.scenarios import Finding, backlog, dead_clients, overload, poison, renewals, requests, unread

MILLION = 1_000_000
QUEUE_MAX = 100_000
LEAST = 2_000


def run(scale: float, only: str) -> list[Finding]:
    """The scenarios whose names hold `only`, on one broker: what one leaves behind is there for the next."""

    def of(count: int) -> int:
        return max(LEAST, int(count * scale) // LEAST * LEAST)

    found: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="bounds-") as folder, Rig(Path(folder), queue_max=of(QUEUE_MAX)) as rig:
        for scenario, count in (
            (requests, of(MILLION)),
            (unread, of(MILLION // 10)),
            (dead_clients, of(MILLION // 10)),
            (poison, of(MILLION // 10)),
            (renewals, of(QUEUE_MAX)),
            (overload, of(QUEUE_MAX)),
            (backlog, of(MILLION)),
        ):
            if only not in scenario.__name__:
                continue
            finding = scenario(rig, count)
            found.append(finding)
            sys.stderr.write(
                f"{finding.what}: {finding.figures} {'WRONG: ' + finding.wrong if finding.wrong else ''}\n"
            )
    return found


def show(found: list[Finding]) -> None:
    """The table."""
    table = Table()
    for name in ("load", "worker MB", "sweep MB", "Redis MB", "measured"):
        table.add_column(name)
    for each in found:
        before, after = each.before, each.after
        table.add_row(
            each.what,
            f"{before.worker:.1f} → {after.worker:.1f}",
            f"{before.sweep:.1f} → {after.sweep:.1f}",
            f"{before.redis:.1f} → {after.redis:.1f}",
            each.figures + (f" WRONG: {each.wrong}" if each.wrong else ""),
        )
    Console(width=150, highlight=False).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bounds", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="1: a million requests, 100,000 claims waiting")
    parser.add_argument(
        "--only", default="", help="one of: requests, unread, dead_clients, poison, renewals, overload, backlog"
    )
    given = parser.parse_args()
    findings = run(given.scale, given.only)
    show(findings)
    wrong = sum(1 for each in findings if each.wrong)
    sys.stdout.write(
        f"bounds: {'failed' if wrong else 'ok'} scale={given.scale:g} checks={len(findings)} wrong={wrong}\n"
    )
    sys.exit(1 if wrong else 0)
