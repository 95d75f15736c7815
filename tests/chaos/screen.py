"""What a campaign shows while it runs, on standard error, and its table, on standard output."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from tests.chaos.judge import Verdict
from tests.chaos.measure import percentile


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that was carried out. Times are of this host's monotonic clock, milliseconds."""

    kind: str
    began_ms: int
    ended_ms: int
    recovered_after_ms: int | None
    """From its end until throughput was back; None: it never was, or another fault came upon it."""
    alone: bool = True
    """Whether its recovery was waited for and measured."""


def progress(seconds: float, duration: float, done: int, what: str, per_second: int) -> None:
    """One line for each fault."""
    line = f"{seconds:6.1f}/{duration:.0f} s  {done:5} jobs done  {per_second:3}/s  {what}\n"
    sys.stderr.write(line)
    sys.stderr.flush()


def table(injected: Sequence[Injected], verdict: Verdict, usual: float) -> None:
    """What was done, and how long it took until things went well again."""
    shown = Table()
    for name in ("fault", "times", "recovery p50 s", "p99 s", "worst s"):
        shown.add_column(name, justify="left" if name == "fault" else "right")
    counts = Counter(each.kind for each in injected)
    for kind, times in sorted(counts.items()):
        took = [each.recovered_after_ms for each in injected if each.kind == kind and each.alone]
        known = [each for each in took if each is not None]
        if known:
            figures = [f"{percentile(known, share) / 1000:.1f}" for share in (0.5, 0.99, 1.0)]
        else:
            figures = ["-", "-", "-"]
        if len(known) < len(took):
            figures[2] = "never"
        shown.add_row(kind, str(times), *figures)
    console = Console(highlight=False, width=110)
    console.print(shown)
    all_known = [each.recovered_after_ms for each in injected if each.alone and each.recovered_after_ms is not None]
    worst = max(all_known, default=0) / 1000
    for line in (
        f"usual throughput {usual:.0f} jobs/s; recovery: from the end of a fault to the first second with 90 % of it",
        f"grants checked {verdict.grants} · completed {verdict.completed} · submitted {verdict.submitted}",
        f"stale attempts answered {verdict.stale_tried}, refused {verdict.stale_refused}; "
        f"without an answer (their sender was killed) {verdict.stale_unheard}",
        f"lost {verdict.lost} · double grants {verdict.double_grants}",
        f"throughput back to 90 % within {worst:.1f} s of every fault's end",
    ):
        console.print(line, soft_wrap=True)
    for wrong in verdict.wrong[:20]:
        console.print(f"WRONG {wrong}", soft_wrap=True, markup=False)


def last_line(*, ok: bool, faults: int, kills: int, verdict: Verdict) -> str:
    """The line that programs read."""
    return (
        f"chaos: {'ok' if ok else 'failed'} faults={faults} kills={kills} grants={verdict.grants} "
        f"stale_tried={verdict.stale_tried} stale_refused={verdict.stale_refused} submitted={verdict.submitted} "
        f"lost={verdict.lost} double_grants={verdict.double_grants}"
    )
