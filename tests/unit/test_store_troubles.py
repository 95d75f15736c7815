"""What is told of a store's troubles: in a log, though met with every call, and by commands that use it themselves."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from structlog.testing import capture_logs

from broker.cli import CommandError
from broker.cli.exits import Exit
from datastore import DatastoreError, Denied, OutcomeUnknown, Rejected, Unavailable
from datastore.interface import Trouble
from workers.cli.failures import told
from workers.store_troubles import EVERY_MS, Troubles


def test_a_trouble_is_logged_at_once_and_then_once_a_minute_with_how_often_it_was_met() -> None:
    now_ms = 5
    troubles = Troubles(lambda: now_ms)
    with capture_logs() as logs:
        for moment_ms, calls in ((5, 1_000), (4 + EVERY_MS, 1_000), (5 + EVERY_MS, 2), (5 + 3 * EVERY_MS, 1)):
            now_ms = moment_ms
            for call in range(calls):
                troubles(Trouble.DENIED, f"call {call}; check the key")
    line = {"event": "store_denied", "log_level": "error", "error": "call 0; check the key"}
    assert logs == [{**line, "left_out": left_out} for left_out in (0, 1_999, 1)]


def test_of_threads_that_meet_it_at_once_one_logs_it() -> None:
    troubles = Troubles(lambda: 0)
    with capture_logs() as logs, ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: troubles(Trouble.DENIED, "no"), range(1_600)))
    assert len(logs) == 1


@pytest.mark.parametrize(
    ("error", "problem", "step", "status"),
    [
        (Denied("read 'k': 401; check the key"), "datastore: read 'k': 401", "check the key", Exit.REFUSED),
        (Unavailable("disk full"), "datastore: disk full", "run it again", Exit.REFUSED),
        (OutcomeUnknown("no answer"), "datastore: no answer", "run it again", Exit.UNKNOWN),
        (Rejected("no cursor"), "datastore: no cursor", "see `broker doctor`", Exit.REFUSED),
    ],
)
def test_a_command_that_a_store_fails_ends_with_a_sentence_and_what_to_do(
    error: DatastoreError, problem: str, step: str, status: Exit
) -> None:
    with pytest.raises(CommandError) as ended, told():
        raise error
    assert (str(ended.value), ended.value.next_step, ended.value.exit) == (problem, step, status)
