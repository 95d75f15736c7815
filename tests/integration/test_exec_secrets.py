"""What a job runs can't read the secrets of the process that runs it, though it is of the same user."""

import os
import subprocess
import sys

import pytest

from tests.commands import BROKER, TIMEOUT_S
from tests.fleet import Fleet

pytestmark = [pytest.mark.redis, pytest.mark.skipif(sys.platform != "linux", reason="Linux keeps it from others")]

NAME = "BROKER_COSMOS_KEY"
AS_ANY_USER = """
import ctypes, os, sys
PR_CAPBSET_DROP = 24
for capability in range(64):  # root may look into every process: here it is a user as any other
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
UNKEPT = """
import sys
from broker.exec import environment
environment.keep_secrets = lambda: None  # the broken twin
from workers.cli.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("broker", "seen"),
    [(BROKER, False), ((sys.executable, "-c", UNKEPT), True)],
    ids=["exec", "one that keeps nothing from it"],
)
@pytest.mark.usefixtures("client")
def test_a_job_can_not_read_the_environment_that_its_runner_was_started_with(
    fleet: Fleet, broker: tuple[str, ...], seen: bool
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AS_ANY_USER, *broker, "exec", "--job", "j", "--", "sh", "-c", "cat /proc/$PPID/environ"],
        env={**os.environ, "BROKER_REDIS_URL": fleet.redis_url, "BROKER_FACTORY": "f", NAME: "hush"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert (NAME in done.stdout) is seen, done.stderr
    assert ("Permission denied" in done.stderr) is not seen
