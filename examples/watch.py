"""Watches what happens to jobs, and goes on where it stopped: `python examples/watch.py cursor.txt`."""

import os
import sys
from pathlib import Path

from broker.client import Client


def main() -> None:
    kept = Path(sys.argv[1])
    since = kept.read_text().strip() if kept.exists() else None
    with Client.connect(os.environ["BROKER_REDIS_URL"], factory_id="watcher") as client:
        for event in client.events(since=since, follow=True):
            if event.event == "missed":
                print("some events are gone; `broker runs JOB_ID` has the record")
                continue
            print(event.event, event.job_id, event.epoch, event.factory_id, event.reason or "", flush=True)
            new = kept.with_suffix(".new")
            new.write_text(event.cursor)
            new.replace(kept)  # in one step: a watcher that is killed leaves a whole cursor


if __name__ == "__main__":
    main()
