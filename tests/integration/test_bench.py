"""`broker bench` that is interrupted: what it leaves in the user's store."""

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.client import Client
from broker.signing import Role
from tests.commands import BROKER
from tests.fleet import Fleet
from tests.processes import wait_for
from tests.signed_fleet import Signed

pytestmark = pytest.mark.redis


@pytest.fixture
def worker(fleet: Fleet) -> "subprocess.Popen[str]":
    return fleet.start_worker()


@pytest.fixture
def client(fleet: Fleet, worker: "subprocess.Popen[str]") -> Iterator[Client]:  # noqa: ARG001  # it serves
    with Client.connect(fleet.redis_url, factory_id="f") as client:
        yield client


def states(client: Client) -> dict[str, int]:
    """How many jobs there are in each state that is not the end of a job, and of those cancelled."""
    found = {state: client.jobs(state=state, limit=500).body["jobs"] for state in ("ready", "leased", "cancelled")}
    return {state: len(jobs) for state, jobs in found.items()}


def interrupted_once(fleet: Fleet, client: Client, state: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit status and what it said, where Ctrl-C came as there was a job in this state."""
    process = fleet.start([*BROKER, "bench", "--jobs", "3000"], env)
    wait_for(lambda: states(client)[state], f"a job is {state}")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    return process.returncode, said


@pytest.mark.parametrize("state", ["ready", "leased"], ids=["while it submits", "while it works"])
def test_interrupted_it_leaves_no_lease_and_no_job_to_be_claimed(fleet: Fleet, client: Client, state: str) -> None:
    status, said = interrupted_once(fleet, client, state)
    assert status == 130
    assert re.fullmatch(r"interrupted: the jobs of queue bench-\w+ are cancelled, for 20 s at most\n", said)
    found = states(client)
    assert (found["ready"], found["leased"], found["cancelled"] > 0) == (0, 0, True)


def test_with_a_key_that_may_not_cancel_it_ends_its_leases_and_says_what_stays(fleet: Fleet, tmp_path: Path) -> None:
    signed = Signed(fleet, tmp_path)
    key = tmp_path / "key"
    key.write_text(signed.key("b").text())
    key.chmod(0o600)
    fleet.start_worker(signed.env)
    with signed.client(signed.key("r", Role.READER)) as reader:
        status, said = interrupted_once(fleet, reader, "leased", {"BROKER_KEY_FILE": str(key)})
        assert status == 130
        assert re.search(r"some jobs of queue bench-\w+ stay: unauthorized", said), said
        assert states(reader)["leased"] == 0
    signed.store.close()


def test_a_second_interrupt_ends_it_at_once(fleet: Fleet, client: Client, worker: "subprocess.Popen[str]") -> None:
    process = fleet.start([*BROKER, "bench", "--jobs", "3000"])
    wait_for(lambda: states(client)["ready"], "it submits")
    worker.send_signal(signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("interrupted: ")
    process.send_signal(signal.SIGINT)
    wait_for(lambda: process.poll() is not None, "it has ended")
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize(
    ("role", "step"),
    [
        (None, "give it the key of this factory with BROKER_KEY_FILE"),
        (Role.SUBMITTER, "`factory` claims, holds leases"),
    ],
    ids=["without a key", "with a submitter's"],
)
def test_where_its_key_may_not_do_that_it_says_which_may(
    fleet: Fleet, tmp_path: Path, role: Role | None, step: str
) -> None:
    signed = Signed(fleet, tmp_path)
    fleet.start_worker(signed.env)
    env = {}
    if role is not None:
        (tmp_path / "key").write_text(signed.key("b", role).text())
        env["BROKER_KEY_FILE"] = str(tmp_path / "key")
    process = fleet.start([*BROKER, "bench", "--jobs", "10"], env)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert "10 of 10 jobs did not go as they should: unauthorized" in said
    assert step in said.partition("\nnext: ")[2]
    signed.store.close()
