"""What a command says on a terminal is a sentence; what is no terminal gets the log too."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from broker.cli.exits import Exit
from broker.client import Client
from broker.entropy import SystemEntropy
from broker.keyring import revoke
from tests.commands import BROKER
from tests.fleet import Fleet
from tests.processes import end, wait_for
from tests.signed_fleet import Signed
from workers.leash import leashed

pytestmark = pytest.mark.redis

SENTENCE = "job j, epoch 1: lease_lost (revoked)"


def until_its_lease_is_lost(client: Client, fleet: Fleet, arguments: list[str], stderr: int) -> int:
    """Runs a command until the lease of its job is lost. Its exit status."""
    process: subprocess.Popen[Any] = subprocess.Popen(
        leashed([*BROKER, *arguments, "--", "sleep", "600"]),
        stdin=subprocess.DEVNULL,
        stderr=stderr,
        env={**os.environ, **fleet.environment()},
        text=True,
    )
    try:
        wait_for(lambda: client.job("j").body["job"]["state"] == "leased", "the job runs")
        client.revoke("j", hold=True)
        wait_for(lambda: process.poll() is not None, "it has ended")
        return process.returncode
    finally:
        end(process)


@pytest.mark.parametrize("command", [["exec"], ["agent", "--once"]], ids=["exec", "agent"])
def test_a_lost_lease_is_told_on_a_terminal_once_and_in_a_sentence(
    client: Client, fleet: Fleet, command: list[str]
) -> None:
    terminal, its_end = os.openpty()
    status = until_its_lease_is_lost(client, fleet, [*command, "--factory", "e"], its_end)
    os.close(its_end)
    told = os.read(terminal, 65_536).decode()
    os.close(terminal)
    assert (status, SENTENCE in told) == (Exit.LOST, True), told
    assert told.count("lease_lost") == 1, told


def test_a_reply_without_a_signature_is_told_in_words_as_it_comes(fleet: Fleet, tmp_path: Path) -> None:
    signed = Signed(fleet, tmp_path)
    key = signed.key("mac-1")
    revoke(signed.store, SystemEntropy(), key.id, now_ms=1)
    fleet.start_worker(signed.env)
    (tmp_path / "key").write_text(key.text())
    (tmp_path / "key").chmod(0o600)
    terminal, its_end = os.openpty()
    env = fleet.environment({**os.environ, "BROKER_KEY_FILE": str(tmp_path / "key")})
    done = subprocess.run([*BROKER, "jobs", "--timeout", "0.5"], stderr=its_end, env=env)
    os.close(its_end)
    told = os.read(terminal, 65_536).decode().splitlines()
    os.close(terminal)
    signed.store.close()
    assert done.returncode == Exit.UNKNOWN
    assert [line.partition(" ")[0] for line in told] == ["a", "error:", "next:"], told
    assert f"a reply without a signature said unauthorized: the key {key.id} is revoked" in told[0]


def test_where_there_is_no_terminal_a_lost_lease_is_logged_too(client: Client, fleet: Fleet) -> None:
    reading, writing = os.pipe()
    status = until_its_lease_is_lost(client, fleet, ["exec", "--factory", "e"], writing)
    os.close(writing)
    told = os.read(reading, 65_536).decode()
    os.close(reading)
    assert (status, SENTENCE in told) == (Exit.LOST, True), told
    assert "event='lease_lost' job='j' epoch=1 reason='revoked'" in told
