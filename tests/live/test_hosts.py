"""Workers on several hosts, on one Redis and one datastore that all of them reach.

LIVE_HOSTS holds a shell for each host, such as `ssh one|ssh two`; `broker` must be on PATH there (LIVE_BROKER says
otherwise). `LIVE_HOSTS='sh -c|sh -c'` tries the test itself on one machine.
"""

import os
import shlex
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from broker.client import Client
from tests.live.reporting import needs
from tests.processes import end, wait_for

pytestmark = needs("several hosts", "LIVE_HOSTS", "LIVE_REDIS_URL", "LIVE_DATASTORE_URL")
JOBS = 200


class Host:
    """A machine with one worker."""

    def __init__(self, shell: str) -> None:
        self._shell = shlex.split(shell)
        env = {name.replace("LIVE_", "BROKER_"): os.environ[name] for name in ("LIVE_REDIS_URL", "LIVE_DATASTORE_URL")}
        settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in env.items())
        broker = os.environ.get("LIVE_BROKER", "broker")
        command = f"echo $$; exec env {settings} BROKER_TAKEOVER_MS=3000 {broker} worker"
        self.worker = subprocess.Popen(
            [*self._shell, command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.worker.stdout is not None
        self.pid = int(self.worker.stdout.readline())

    def kill(self) -> None:
        """The worker dies without a word."""
        subprocess.run([*self._shell, f"kill -9 {self.pid}"], check=False, timeout=30)
        end(self.worker)


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    started = [Host(shell) for shell in os.environ["LIVE_HOSTS"].split("|")]
    yield started
    for host in started:
        host.kill()


def test_hosts_race_for_jobs_one_dies_and_each_job_has_one_winner_for_an_epoch(hosts: list[Host]) -> None:
    assert len(hosts) > 1, "one host is no race"
    queue, url = f"live-{uuid4().hex[:8]}", os.environ["LIVE_REDIS_URL"]
    with Client.connect(url, factory_id="submitter", timeout_ms=60_000) as client:
        assert client.submit(job_id=f"{queue}-0", queue=queue).good, "a worker serves"
        for number in range(1, JOBS):
            assert client.submit(job_id=f"{queue}-{number}", queue=queue).good

    def factory(name: str) -> list[tuple[str, int]]:
        won = []
        with Client.connect(url, factory_id=name, timeout_ms=60_000) as client:
            while (grant := client.claim(queue=queue)).granted:
                won.append((str(grant.body["job_id"]), int(grant.body["epoch"])))
                done = client.complete(grant.body["job_id"], epoch=grant.body["epoch"], token=grant.body["token"])
                assert done.good, done.summary
        return won

    with ThreadPoolExecutor(8) as pool:
        racing = [pool.submit(factory, f"mac-{number}") for number in range(8)]
        wait_for(lambda: any(each.done() or each.running() for each in racing), "the race is on")
        hosts[0].kill()
        won = [pair for each in racing for pair in each.result(timeout=600)]
    assert len(won) == len(set(won)), "two winners for a job and an epoch"
    assert {job for job, _ in won} == {f"{queue}-{number}" for number in range(JOBS)}, "a job was lost"
