"""What a guard shows of the lease it holds; the same for threads and for asyncio."""

from collections.abc import Mapping
from typing import Any

from broker.client.tenure import Tenure


class Held:
    """The job, its fence and its directives. There is nothing to see before the guard is entered."""

    _tenure: Tenure

    @property
    def job_id(self) -> str:
        """The job held."""
        return self._tenure.job_id

    @property
    def queue(self) -> str:
        """The queue it came from."""
        return self._tenure.queue

    @property
    def epoch(self) -> int:
        """The fencing token: hand it to every system the work writes to (see `FenceGate`)."""
        return self._tenure.epoch

    @property
    def token(self) -> str:
        """The holder's secret; for operations made outside this guard."""
        return self._tenure.token

    @property
    def payload(self) -> Any:
        """What was submitted."""
        return self._tenure.payload

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of the job."""
        return self._tenure.labels

    @property
    def failures(self) -> int:
        """Failed tries before this one."""
        return self._tenure.failures

    @property
    def directives(self) -> frozenset[str]:
        """What the last renewal asked of the holder."""
        return self._tenure.directives

    @property
    def cancel_requested(self) -> bool:
        """Whether the job is to be cancelled: stop, and release it."""
        return "cancel" in self._tenure.directives
