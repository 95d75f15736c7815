"""What is counted while the fleet runs, and the two things that must never be: checked at every grant."""

from array import array
from collections import Counter
from collections.abc import Sequence


class Tally:
    """Waits in milliseconds, and what holders believe."""

    def __init__(self) -> None:
        self.waits_ms = array("d")
        """From a job being ready to its grant."""
        self.takeovers_ms = array("d")
        """From the end of a factory to the grant of the job it held to another."""
        self.requests: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        """Jobs by their last state."""
        self.refused = 0
        """Requests of holders whose lease was gone."""
        self.deaths = 0
        self.double_epochs = 0
        """Grants that did not raise the epoch by one: two holders of one epoch (I1)."""
        self.double_holders = 0
        """Grants while an earlier holder still counted on its lease (I9)."""
        self._epochs: dict[str, int] = {}
        self._believed_ms: dict[str, float] = {}
        self._orphaned_ms: dict[str, float] = {}

    def grant(self, job_id: str, epoch: int, *, ready_ms: float, now_ms: float) -> None:
        """A job was granted."""
        self.waits_ms.append(now_ms - ready_ms)
        if epoch != self._epochs.get(job_id, 0) + 1:
            self.double_epochs += 1
        self._epochs[job_id] = epoch
        if self._believed_ms.pop(job_id, 0.0) > now_ms:
            self.double_holders += 1
        orphaned_ms = self._orphaned_ms.pop(job_id, None)
        if orphaned_ms is not None:
            self.takeovers_ms.append(now_ms - orphaned_ms)

    def believe(self, job_id: str, until_ms: float) -> None:
        """A holder counts on its lease until then, by its own clock (I9)."""
        self._believed_ms[job_id] = until_ms

    def let_go(self, job_id: str) -> None:
        """A holder no longer counts on it."""
        self._believed_ms.pop(job_id, None)

    def orphan(self, job_id: str, now_ms: float) -> None:
        """Its holder has come to an end, or to a standstill."""
        self._orphaned_ms[job_id] = now_ms

    def adopted(self, job_id: str) -> None:
        """Its holder is back, and still has it."""
        self._orphaned_ms.pop(job_id, None)

    def end(self, job_id: str, state: str) -> None:
        """A job is over."""
        self.ended[state] += 1
        for kept in (self._epochs, self._believed_ms, self._orphaned_ms):
            kept.pop(job_id, None)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
