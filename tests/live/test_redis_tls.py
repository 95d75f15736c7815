"""A Redis that ends TLS itself: `rediss://HOST:6379/0?ssl_ca_certs=…`, with certificates where it asks for them."""

import os
from pathlib import Path
from uuid import uuid4

from broker.client import Client
from tests.fleet import Fleet
from tests.live.reporting import needs

pytestmark = needs("a Redis with TLS of its own, and nothing else in it", "LIVE_TLS_REDIS_URL")


def test_a_job_lives_over_tls(tmp_path: Path) -> None:
    url, job_id = os.environ["LIVE_TLS_REDIS_URL"], uuid4().hex
    fleet = Fleet(url, tmp_path)
    try:
        fleet.start_worker()
        with Client.connect(url, factory_id="f") as client:
            assert client.submit("x" * 60_000, job_id=job_id).good
            with client.lease(job_id) as lease:
                lease.complete()
            assert client.claim(wait_ms=200).answer == "none_available"
    finally:
        fleet.close()
