"""How large the simulated fleet is, what befalls it, and what a request costs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. Shares are of 1, times as their names say."""

    factories: int = 1_000
    jobs: int = 20_000
    load: float = 0.8
    """The share of all factories that the jobs, as they arrive, keep busy."""
    burst: int = 1
    """Jobs that are submitted at one moment."""
    run_s: float = 30.0
    """Mean of a run, exponentially distributed."""
    ttl_s: float = 60.0
    skew_s: float = 2.0
    failing: float = 0.02
    """Runs that end in a retryable failure."""
    dies_every_s: float = 36_000.0
    """Mean time from a factory's start to its end, wherever it is in its work then."""
    down_s: float = 120.0
    """Mean time until it is back."""
    stalled: float = 0.2
    """Of those ends, the share that is only a standstill: it comes back and believes in its lease."""
    redis: int = 1
    """Redis servers, each with its own workers, jobs and factories."""
    workers: int = 2
    """Worker processes of each."""
    redis_us: float = 15.0
    """CPU of Redis for a request, its submission and its reply included (docs/scaling.md says how it was measured)."""
    worker_us: float = 74.0
    """CPU of a worker for a request, on SQLite."""
    latency_ms: float = 1.0
    """One way, between a factory and the broker."""
    seed: int = 1

    @property
    def arrivals_per_s(self) -> float:
        """Jobs submitted each second."""
        return self.factories * self.load / self.run_s
