"""Tells a newcomer what became of the two interrupted factories, from the evidence the summary is computed from."""

from collections.abc import Iterator, Sequence

from workers.demo.evidence import Ledger
from workers.demo.jobs import KILLED_JOB, STOPPED_JOB
from workers.demo.records import Event, Record


def narrate(ledger: Ledger, records: Sequence[Record]) -> list[str]:
    """One sentence for each thing that happened to the two jobs."""
    return [*_takeover(ledger, KILLED_JOB, "killed (SIGKILL)"), *_stopped(ledger, records)]


def _takeover(ledger: Ledger, job: str, what: str) -> Iterator[str]:
    for expired, next_run in ledger.takeovers():
        if expired["job_id"] == job:
            yield (
                f"{expired['factory_id']} was {what} while it held {job} at epoch {expired['epoch']}; "
                f"{next_run['factory_id']} took it over at epoch {next_run['epoch']} ({next_run['outcome']})."
            )


def _stopped(ledger: Ledger, records: Sequence[Record]) -> Iterator[str]:
    yield from _takeover(ledger, STOPPED_JOB, "stopped (SIGSTOP) past its lease")
    for record in records:
        if record.event is Event.REFUSED and record.late and record.job == STOPPED_JOB:
            why = f"{record.answer} ({record.reason})" if record.reason else record.answer
            yield (
                f"{record.factory} was continued and sent its result all the same, at its old epoch {record.epoch}: "
                f"refused, {why}."
            )
