"""`python -m benchmarks.fleet_simulation [--factories 10000 --jobs 1000000 --redis-us 10 --worker-us 28 ...]`."""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import fields

from benchmarks.fleet_simulation.fleet import Ran, run
from benchmarks.fleet_simulation.plan import Plan
from benchmarks.fleet_simulation.tally import percentile


def main() -> int:
    """Simulate, and print what became of it; 1 where something was granted twice or got lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    for field in fields(Plan):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    plan = Plan(**vars(parser.parse_args()))
    begun = time.process_time()
    ran = run(plan, tell=lambda line: print(line, file=sys.stderr, flush=True))
    print("\n".join(table(ran)))
    print(f"{ran.events:,} events in {time.process_time() - begun:.0f} s of CPU")
    return 1 if wrong(ran) else 0


def table(ran: Ran) -> list[str]:
    """What the run shows, a line each."""
    plan, tally = ran.plan, ran.tally
    requests = tally.requests.total()
    seconds = ran.span_ms / 1_000
    return [
        f"{plan.factories:,} factories, {plan.jobs:,} jobs, {plan.redis} Redis with {plan.workers} workers each, "
        f"{plan.arrivals_per_s:,.0f} jobs/s, {plan.burst:,} at once, "
        f"ttl {plan.ttl_s:g} s, {plan.redis_us:g} + {plan.worker_us:g} µs a request",
        f"fleet's time             {seconds:,.0f} s",
        f"requests                 {requests:,} ({requests / seconds:,.0f}/s): "
        + ", ".join(f"{op} {count:,}" for op, count in sorted(tally.requests.items())),
        f"queue wait               p50 {_ms(tally.waits_ms, 0.5)}, p99 {_ms(tally.waits_ms, 0.99)}",
        f"factories lost           {tally.deaths:,}; {len(tally.takeovers_ms):,} jobs taken over",
        f"takeover after a loss    p50 {_ms(tally.takeovers_ms, 0.5)}, p99 {_ms(tally.takeovers_ms, 0.99)}",
        f"utilisation              Redis {ran.redis_busy:.2%}, workers {ran.workers_busy:.2%}",
        f"late requests refused    {tally.refused:,}",
        "jobs ended               " + ", ".join(f"{state} {count:,}" for state, count in sorted(tally.ended.items())),
        f"double grants            {tally.double_epochs} of an epoch, {tally.double_holders} while another believed",
    ]


def wrong(ran: Ran) -> bool:
    """Whether something was granted twice, or a job never ended."""
    tally = ran.tally
    return bool(tally.double_epochs or tally.double_holders or tally.ended.total() != ran.plan.jobs)


def _ms(values: Sequence[float], share: float) -> str:
    found = percentile(values, share)
    return f"{found:,.1f} ms" if found < 1_000 else f"{found / 1_000:,.1f} s"


if __name__ == "__main__":
    sys.exit(main())
