"""What `make bounds` measures, on a small scale, and broken workers that it must not take for sound ones."""

from pathlib import Path

import pytest

from tests.bounds.rig import WORKER, Rig
from tests.bounds.scenarios import renewals, requests

pytestmark = pytest.mark.redis

FEW = 2_000
HOLDERS_LAST = """
import broker.queues
broker.queues.QUEUES = ("claims", "jobs", "leases")
"""
KEEPS_SOMETHING = """
import broker.parsing
kept, parse = [], broker.parsing.parse
def keep(raw):
    kept.append(b"x" * 10_000)
    return parse(raw)
broker.parsing.parse = keep
"""


def broken(how: str) -> tuple[str, ...]:
    """A worker with something changed in it before it starts."""
    return "-c", f"{how}\nfrom workers.cli.start import main\nmain()", "worker"


@pytest.mark.parametrize(
    ("worker", "wrong"), [(WORKER, False), (broken(HOLDERS_LAST), True)], ids=["sound", "holders last"]
)
def test_holders_are_heard_while_claims_wait(tmp_path: Path, worker: tuple[str, ...], wrong: bool) -> None:
    with Rig(tmp_path, worker=worker, queue_max=FEW) as rig:
        found = renewals(rig, FEW)
    assert ("holders waited" in found.wrong) is wrong, found.figures


@pytest.mark.parametrize(
    ("worker", "wrong"), [(WORKER, False), (broken(KEEPS_SOMETHING), True)], ids=["sound", "keeps something"]
)
def test_workers_do_not_grow_with_what_they_have_served(tmp_path: Path, worker: tuple[str, ...], wrong: bool) -> None:
    with Rig(tmp_path, worker=worker, queue_max=FEW) as rig:
        found = requests(rig, FEW)
    assert ("a worker grew" in found.wrong) is wrong, (found.before, found.after)
