"""How long a job takes from `submit` to a factory that waits parked, against two bare round trips in the same run.

`python -m benchmarks.parked_latency [--rounds 300]`. One worker process, SQLite, a Valkey of its own.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import redis

from benchmarks.conditions import told
from broker import claim_next
from broker.client import Client
from workers.embedded import start_embedded
from workers.state_dir import StateDir

WAIT_MS = 20_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = start_embedded(StateDir.at(Path(folder) / "state"))
        settings = {"BROKER_REDIS_URL": server.url, "BROKER_DATASTORE_URL": f"sqlite:///{folder}/jobs.db"}
        worker = subprocess.Popen(
            [sys.executable, "-m", "workers.cli", "worker"],
            env={**os.environ, **settings, "BROKER_LOG_LEVEL": "ERROR"},
        )
        try:
            with redis.Redis.from_url(server.url) as connection:
                print(told(connection))
                _measure(connection, server.url, rounds=options.rounds)
        finally:
            worker.terminate()
            worker.wait()
            server.stop()


def _measure(connection: redis.Redis, url: str, *, rounds: int) -> None:
    bare: list[float] = []
    parked: list[float] = []
    with (
        Client.connect(url, factory_id="submitter", timeout_ms=30_000) as submitter,
        Client.connect(url, factory_id="waiter", timeout_ms=30_000) as waiter,
    ):
        submitter.submit()
        waiter.claim()
        for _ in range(rounds):
            bare.append(_two_round_trips(submitter, waiter))
            parked.append(_to_the_parked(connection, submitter, waiter))
    for name, found in (
        ("submit, then claim (two round trips)", bare),
        ("submit to the parked factory's grant", parked),
    ):
        quantiles = statistics.quantiles(found, n=100)
        print(f"{name:<38} median {quantiles[49]:6.2f} ms   p99 {quantiles[98]:6.2f} ms")
    print(f"ratio of the medians {statistics.median(parked) / statistics.median(bare):.2f}")


def _two_round_trips(submitter: Client, waiter: Client) -> float:
    begin = time.perf_counter()
    submitter.submit()
    if not waiter.claim().granted:
        raise SystemExit("no job was granted")
    return (time.perf_counter() - begin) * 1_000


def _to_the_parked(connection: redis.Redis, submitter: Client, waiter: Client) -> float:
    granted: list[float] = []

    def wait() -> None:
        if waiter.claim(wait_ms=WAIT_MS).granted:
            granted.append(time.perf_counter())

    thread = threading.Thread(target=wait)
    thread.start()
    while not connection.hlen(claim_next.WAITING):
        time.sleep(0.001)
    begin = time.perf_counter()
    submitter.submit()
    thread.join()
    if not granted:
        raise SystemExit("no job was granted")
    return (granted[0] - begin) * 1_000


if __name__ == "__main__":
    main()
