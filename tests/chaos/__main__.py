"""`make chaos`: DURATION=60 seconds of faults on a local fleet; exit status 0 only if everything held."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos.campaign import Campaign, CampaignError
from tests.chaos.faults import FAULTS
from tests.chaos.screen import last_line, table

TWINS = {"": "workers.cli", "no-fence": "tests.chaos.no_fence", "read-check-write": "tests.chaos.read_check_write"}


def main() -> int:
    """Run one campaign and print its table."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--duration", type=float, default=60, help="seconds of faults")
    parser.add_argument("--seed", type=int, default=None, help="the schedule; random, and printed, unless given")
    parser.add_argument("--factories", type=int, default=8)
    parser.add_argument("--per-second", type=int, default=25, help="jobs submitted")
    parser.add_argument("--warm-up", type=float, default=5, help="seconds without faults, to measure the usual rate")
    parser.add_argument(
        "--only", default="", help="kinds of faults whose names hold this, such as `kill` or `half-open`"
    )
    parser.add_argument("--twin", choices=TWINS, default="", help="a broken broker, which must be found out")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else int.from_bytes(os.urandom(3))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    sys.stderr.write(
        f"chaos: seed={seed}; the same schedule again: make chaos SEED={seed}; everything is in {folder}\n"
    )
    campaign = Campaign(
        folder,
        seed,
        int(given.duration * 1000),
        factories=given.factories,
        per_second=given.per_second,
        command_line=TWINS[given.twin],
        warm_up_ms=int(given.warm_up * 1000),
        kinds=tuple(kind for kind in FAULTS if given.only in kind),
    )
    try:
        verdict = campaign.run()
    except CampaignError as error:
        sys.stderr.write(f"chaos: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("chaos: interrupted; everything it started has ended\n")
        return 130
    table(campaign.injected, verdict, campaign.usual)
    back = all(each.recovered_after_ms is not None for each in campaign.injected if each.alone)
    ok = verdict.holds and campaign.drained and back and len(campaign.injected) > 0
    if not campaign.drained:
        sys.stdout.write("WRONG not every job has ended within the time of the drain\n")
    if not back:
        sys.stdout.write("WRONG throughput did not come back after a fault\n")
    sys.stdout.write(last_line(ok=ok, faults=len(campaign.injected), kills=campaign.kills, verdict=verdict) + "\n")
    if ok:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
