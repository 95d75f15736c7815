"""Submits jobs at a steady pace, each until it is acknowledged; what an outage held up follows at once."""

import argparse
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from broker.client import BrokerTimeout, Client, ClientError
from broker.clock import monotonic_ms, sleep_ms
from broker.settings import load
from tests.chaos.work import QUEUE, RACE_EVERY_MS, RACE_QUEUE, kind_of, race_job

THREADS = 4
PAUSE_MS = 50
RACES_AHEAD = 3


@dataclass(frozen=True, slots=True)
class Submitter:
    """One client that several threads submit with."""

    client: Client
    per_second: int
    began_ms: int
    stop: threading.Event

    def jobs(self, first: int) -> None:
        """Every `THREADS`th job, each at its time."""
        number = first
        while self._wait_until(self.began_ms + 1_000 * number // self.per_second):
            self._submit(f"job-{number:06}", QUEUE, kind_of(number))
            number += THREADS

    def races(self) -> None:
        """A job for each slot, in time before it begins."""
        slot = monotonic_ms() // RACE_EVERY_MS + RACES_AHEAD
        while self._wait_until((slot - RACES_AHEAD) * RACE_EVERY_MS):
            self._submit(race_job(slot), RACE_QUEUE, "plain")
            slot += 1

    def _wait_until(self, due_ms: int) -> bool:
        return not self.stop.wait(max(0, due_ms - monotonic_ms()) / 1000)

    def _submit(self, job_id: str, queue: str, kind: str) -> None:
        request_id = f"submit-{job_id}"
        while True:
            try:
                reply = self.client.submit({"kind": kind}, job_id=job_id, queue=queue, request_id=request_id)
                if reply.good:
                    return
            except (BrokerTimeout, ClientError):
                pass  # the same id again: it takes effect once
            sleep_ms(PAUSE_MS)


def main() -> None:
    """Submit until SIGTERM; what was begun is brought to its end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--history", type=Path, required=True)
    parser.add_argument("--per-second", type=int, required=True)
    given = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    url = load().redis_url
    assert url is not None, "the campaign sets BROKER_REDIS_URL"
    with Client.connect(url, factory_id="submitter", history=given.history, attempt_ms=1_000) as client:
        submitter = Submitter(client, given.per_second, monotonic_ms(), stop)
        threads = [threading.Thread(target=submitter.jobs, args=(first,)) for first in range(THREADS)]
        threads.append(threading.Thread(target=submitter.races))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    sys.exit(0)


if __name__ == "__main__":
    main()
