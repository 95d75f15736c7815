"""What a check has found: each violation with the two records that can't both be right, and the counts."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from broker.history.record import Record


class Rule(StrEnum):
    """What can be broken. docs/checking.md says each exactly."""

    TWO_HOLDERS = "two_holders"
    EPOCH_ORDER = "epoch_order"
    TWO_COMPLETIONS = "two_completions"
    STALE_EFFECT = "stale_effect"
    GRANTED_AFTER_TERMINAL = "granted_after_terminal"
    ANSWERED_TWICE = "answered_twice"
    CREATED_TWICE = "created_twice"
    LOST = "lost"
    UNEXPECTED = "unexpected"


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule. `first` and `second` conflict; a lost or unexpected job has one record that tells of it."""

    rule: Rule
    job: str
    epoch: int | None
    why: str
    first: Record
    second: Record | None = None

    @property
    def records(self) -> tuple[Record, ...]:
        """The one or two records that show it."""
        return (self.first,) if self.second is None else (self.first, self.second)


@dataclass(slots=True)
class Totals:
    """The jobs of a history, each counted where it belongs."""

    submitted: int = 0
    """Submissions that were acknowledged."""
    completed: int = 0
    ended: int = 0
    """Over otherwise: failed or cancelled."""
    lost: int = 0
    """Acknowledged, and not over as far as is known; wrong after a drain, and no more than unfinished before."""
    unsettled: int = 0
    """Acknowledged, and ended perhaps: by a call whose outcome is unknown."""
    duplicated: int = 0
    """Completed more than once."""
    recovered: int = 0
    """Their submission was never acknowledged, and they turned up."""
    unexpected: int = 0
    """They turned up, and no client of this history has submitted them."""

    def plain(self) -> dict[str, int]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Report:
    """The verdict on a history."""

    violations: tuple[Violation, ...]
    totals: Totals
    calls: int
    unknown: int
    """Calls whose outcome is unknown."""
    jobs: int
    grants: int
    """Distinct grants."""
    drained: bool
    timed: bool
    """Whether the order in time was judged: not where the records are of several clocks."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.violations

    def plain(self) -> dict[str, Any]:
        """As JSON, without the violations."""
        counts = {name: getattr(self, name) for name in ("calls", "unknown", "jobs", "grants", "drained", "timed")}
        return {"ok": self.ok, "violations": len(self.violations), **counts, **self.totals.plain()}
