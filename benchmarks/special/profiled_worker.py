"""A broker worker that profiles itself from SIGUSR1 on, and leaves the profile in a file as it ends."""

import cProfile
import os
import signal
import sys
from pathlib import Path

from broker.settings import load
from workers.runtime import run_worker

FILE = "BENCH_PROFILE"


def main() -> int:
    """Serve until SIGTERM, as `broker worker` does."""
    profile = cProfile.Profile()
    signal.signal(signal.SIGUSR1, lambda *_: profile.enable())
    try:
        return run_worker(load())
    finally:
        profile.disable()
        profile.dump_stats(Path(os.environ[FILE]))


if __name__ == "__main__":
    sys.exit(main())
