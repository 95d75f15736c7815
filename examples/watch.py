"""Watches what happens to jobs, and goes on where it stopped.

BROKER_REDIS_URL=redis://localhost python examples/watch.py cursor.txt
"""

import argparse
import os
import sys
from pathlib import Path

from broker.client import Client, InvalidUrl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cursor", type=Path, help="a file that keeps how far it has come")
    kept = parser.parse_args().cursor
    url = os.environ.get("BROKER_REDIS_URL") or sys.exit("set BROKER_REDIS_URL, such as to redis://localhost")
    since = kept.read_text().strip() if kept.exists() else None
    with Client.connect(url, factory_id="watcher") as client:
        for event in client.events(since=since, follow=True):
            if event.event == "missed":
                print("some events are gone; `broker runs JOB_ID` has the record")
                continue
            print(event.event, event.job_id, event.epoch, event.factory_id, event.reason or "", flush=True)
            new = kept.with_suffix(".new")
            new.write_text(event.cursor)
            new.replace(kept)  # in one step: a watcher that is killed leaves a whole cursor


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except InvalidUrl as error:
        sys.exit(str(error))
