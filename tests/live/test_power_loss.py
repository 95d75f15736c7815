"""The power of the broker's host goes while it works: what was acknowledged is there afterwards, and no epoch twice.

LIVE_POWER_CUT is a command that cuts it, and returns once the host is up again and its fleet serves at LIVE_REDIS_URL
(a virtual machine with `virsh destroy` and `virsh start`, a switched socket). A kill is not the same: what was written
but not synced survives it.
"""

import os
import subprocess
import threading
from uuid import uuid4

from broker.client import BrokerTimeout, BrokerUnavailable, Client
from tests.live.reporting import needs
from tests.processes import wait_for

pytestmark = needs("power loss of the broker's host", "LIVE_POWER_CUT", "LIVE_REDIS_URL")


def test_what_was_acknowledged_survives_a_power_cut_and_no_epoch_comes_twice() -> None:
    queue, stop = f"live-{uuid4().hex[:8]}", threading.Event()
    acknowledged: list[str] = []
    epochs: dict[str, list[int]] = {}

    def work() -> None:
        number = 0
        with Client.connect(os.environ["LIVE_REDIS_URL"], factory_id="worker", timeout_ms=2_000) as client:
            while not stop.is_set():
                number += 1
                try:
                    if client.submit(job_id=f"{queue}-{number}", queue=queue).good:
                        acknowledged.append(f"{queue}-{number}")
                    grant = client.claim(acknowledged[0]) if acknowledged else None
                    if grant is not None and grant.granted:
                        epochs.setdefault(acknowledged[0], []).append(int(grant.body["epoch"]))
                        fence = {"epoch": grant.body["epoch"], "token": grant.body["token"]}
                        client.release(acknowledged[0], **fence)
                except (BrokerTimeout, BrokerUnavailable):
                    continue

    worker = threading.Thread(target=work)
    worker.start()
    wait_for(lambda: len(acknowledged) > 50, "it works", deadline_ms=60_000)
    subprocess.run(os.environ["LIVE_POWER_CUT"], shell=True, check=True, timeout=600)  # noqa: S602  # the user's own
    before = len(acknowledged)
    wait_for(lambda: len(acknowledged) > before + 50, "it works again", deadline_ms=120_000)
    stop.set()
    worker.join()
    with Client.connect(os.environ["LIVE_REDIS_URL"], factory_id="reader") as client:
        assert [job for job in acknowledged if not client.job(job).good] == []
    assert all(seen == sorted(set(seen)) for seen in epochs.values()), "an epoch was granted twice"
