"""A factory of the campaign: works under lease guards, races, abandons jobs, and answers too late on purpose."""

import argparse
import os
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

from broker.client import Client, ClientError, Lease, LeaseLost, NotGranted, Reply
from broker.clock import monotonic_ms, sleep_ms
from broker.settings import load
from tests.chaos.work import ABANDONED, DRAIN_FILE, LATE_MS, QUEUE, RACE_EVERY_MS, RACE_QUEUE, WORK_MS, race_job

WAIT_MS = 1_000
STEP_MS = 10
INSIST_MAX = 20
"""Tries to get an answer to a late attempt: it has to be refused, not lost."""


@dataclass(frozen=True, slots=True)
class Late:
    """A lease whose holder comes back when it is long over."""

    job_id: str
    epoch: int
    token: str

    @property
    def epoch_and_job(self) -> int:
        """A number that differs between leases."""
        return self.epoch + sum(self.job_id.encode())


@dataclass(slots=True)
class Factory:
    """One client and what is done with it."""

    client: Client
    folder: Path

    def run(self) -> NoReturn:
        """Work until the process ends."""
        threading.Thread(target=self._race, daemon=True).start()
        while True:
            try:
                took = self._one_job(QUEUE, wait_ms=WAIT_MS)
                if not took and (self.folder / DRAIN_FILE).exists():
                    self._one_job(RACE_QUEUE, wait_ms=0)
            except ClientError:  # no answer: the request is repeated under another id, a lease of it expires
                sleep_ms(STEP_MS)

    def _one_job(self, queue: str, *, wait_ms: int) -> bool:
        """Whether there was one."""
        grant = self.client.claim(queue=queue, wait_ms=wait_ms)
        if not grant.granted:
            return False
        kind = grant.body["payload"]["kind"]
        if kind == ABANDONED and grant.body["epoch"] == 1:
            self._abandon(grant)
        else:
            self._work(grant, WORK_MS[kind])
        return True

    def _work(self, grant: Reply, work_ms: int) -> None:
        try:
            with self.client.keep(grant) as lease:
                _pretend(lease, work_ms)
                lease.complete({"by": self.client.factory_id})
        except LeaseLost:  # obstinate: past the guard, the answer is sent all the same
            self._come_back(_late(grant))
        except NotGranted:
            pass

    def _abandon(self, grant: Reply) -> None:
        """Neither renew it nor end it, and come back while somebody else works on it."""
        back = threading.Timer(LATE_MS / 1000, self._come_back, [_late(grant)])
        back.daemon = True
        back.start()

    def _come_back(self, late: Late) -> None:
        """With a lease that is over: renew, then end the job in one way or another. Each until it is answered."""
        ends = (self.client.complete, self.client.fail, self.client.release)
        for ask in (self.client.renew, ends[late.epoch_and_job % len(ends)]):
            request_id = uuid4().hex
            for _ in range(INSIST_MAX):
                try:
                    ask(late.job_id, epoch=late.epoch, token=late.token, request_id=request_id)
                    break
                except ClientError:
                    sleep_ms(STEP_MS)

    def _race(self) -> None:
        """All factories ask for the same job at the same moment, again and again."""
        slot = monotonic_ms() // RACE_EVERY_MS
        while True:
            slot = max(slot + 1, monotonic_ms() // RACE_EVERY_MS)
            sleep_ms(max(0, slot * RACE_EVERY_MS - monotonic_ms()))
            with suppress(ClientError):
                grant = self.client.claim(race_job(slot))
                if grant.granted:
                    fence = {"epoch": grant.body["epoch"], "token": grant.body["token"]}
                    self.client.complete(race_job(slot), **fence)


def _late(grant: Reply) -> Late:
    return Late(grant.body["job_id"], grant.body["epoch"], grant.body["token"])


def _pretend(lease: Lease, work_ms: int) -> None:
    done_ms = monotonic_ms() + work_ms
    while monotonic_ms() < done_ms:
        sleep_ms(STEP_MS)
        lease.check()


def main() -> NoReturn:
    """Be one factory until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    url = load().redis_url
    assert url is not None, "the campaign sets BROKER_REDIS_URL"
    history = given.folder / "history"
    while True:
        with suppress(ClientError):
            client = Client.connect(
                url,
                factory_id=given.name,
                incarnation=f"{given.name}-{os.getpid()}",
                history=history,
                attempt_ms=1_000,
                timeout_ms=5_000,
            )
            Factory(client, given.folder).run()
        sleep_ms(100)
        if os.getppid() == 1:
            sys.exit(1)


if __name__ == "__main__":
    main()
