"""One factory of the demo, a process of its own: claims, pretends to work under a lease guard, writes down all of it.

It is obstinate on purpose: told that its lease is lost, it sends its answer all the same, past the guard.
"""

import argparse
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from broker.client import Client, ClientError, Lease, LeaseLost, NotGranted
from broker.clock import monotonic_ms, sleep_ms
from broker.settings import load
from workers.demo.jobs import ENGINE, QUEUE
from workers.demo.records import Event, Record, append

WAIT_MS = 5_000
"""How long a claim stays parked where there is nothing to take."""
STEP_MS = 20
"""Work goes in steps, and after each the guard is asked whether the lease still stands."""


@dataclass(frozen=True, slots=True)
class Factory:
    """What one factory does with its client."""

    client: Client
    name: str
    incarnation: str
    path: Path

    def note(self, event: Event, **fields: Any) -> None:
        """Write a line down before anything else happens."""
        append(self.path, Record(event, self.name, self.incarnation, os.getpid(), **fields))

    def run(self) -> NoReturn:
        """Work until the process ends: take what is there, else wait for it."""
        wait = False
        while True:
            try:
                self._one_job(waited=wait)
                wait = False
            except NotGranted:
                wait = True
            except ClientError:  # a grant or an end whose answer was lost: the lease expires, another takes over
                sleep_ms(STEP_MS)

    def _one_job(self, *, waited: bool) -> None:
        sent_ms = monotonic_ms()
        lease = self.client.lease(queue=QUEUE, offers=[f"engine={ENGINE}"], wait_ms=WAIT_MS if waited else 0)
        late = False
        try:
            with lease:
                times = {"sent_ms": sent_ms, "received_ms": monotonic_ms(), "waited": waited}
                self.note(Event.CLAIMED, job=lease.job_id, epoch=lease.epoch, **times)
                _work(lease)
                reply = lease.complete(self._result(lease.epoch))
        except LeaseLost as lost:
            self.note(Event.LOST, job=lost.job_id, epoch=lost.epoch, reason=lost.reason)
            late = True
            reply = self.client.complete(
                lost.job_id, epoch=lost.epoch, token=lease.token, result=self._result(lost.epoch)
            )
        self.note(
            Event.COMPLETED if reply.good else Event.REFUSED,
            job=lease.job_id,
            epoch=lease.epoch,
            late=late,
            answer=reply.answer.value,
            reason=reply.reason.value if reply.reason else None,
        )

    def _result(self, epoch: int) -> dict[str, Any]:
        return {"built_by": self.name, "epoch": epoch}


def _work(lease: Lease) -> None:
    """Pretend to work for as long as the job file says.

    Raises:
      LeaseLost: the job is somebody else's by now, or soon.
    """
    params = lease.payload["params"]
    done_ms = monotonic_ms() + params["first_try_work_ms" if lease.epoch == 1 else "work_ms"]
    while monotonic_ms() < done_ms:
        sleep_ms(STEP_MS)
        lease.check()


def main() -> NoReturn:
    """Be one factory until SIGTERM, which ends a wait or gives a lease back."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--record", type=Path, required=True)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    redis_url = load().redis_url
    assert redis_url is not None, "the demo sets BROKER_REDIS_URL"
    incarnation = f"{given.name}-{os.getpid()}"
    with Client.connect(redis_url, factory_id=given.name, incarnation=incarnation) as client:
        factory = Factory(client, given.name, incarnation, given.record)
        factory.note(Event.STARTED)
        factory.run()


if __name__ == "__main__":
    main()
