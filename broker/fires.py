"""Carrying out the fires of a schedule: each becomes one job, whose id is made of name and time."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from broker import submission
from broker.answers import Reason, Word
from broker.messages import Submit, SubmitBody
from broker.settlement import Change, Context, Settlement
from broker.terms import FIRES_MAX, Due, Term
from datastore import DatastoreError

log = structlog.get_logger(__name__)

SCHEDULER = "schedule"
"""Who has submitted the job of a fire; also the label that names its schedule."""


@dataclass(slots=True)
class Fires:
    """What one sweep carries out of a schedule, as far as it has come. What fails of one term holds up no other."""

    context: Context
    name: str
    now_ms: int
    changes: list[Change] = field(default_factory=list)
    carried_out: list[int] = field(default_factory=list)
    last_job_id: str | None = None
    failed: bool = False
    room: int = FIRES_MAX

    def all(self, ready: Sequence[Due]) -> list[Due]:
        """Submit what is due of these terms, in order of time, but that what goes on has room before what is over.

        Not where a job that is owed would end a later one: then nothing that is later is made before all of that term.
        """
        goes_on = [each for each in ready if each.term.until_ms is None]
        in_turn = any(each.term.ends_others() for each in ready if each.term.until_ms is not None)
        kept = 0 if in_turn else sum(len(each.fires) for each in goes_on)
        return [self._term(each, self.room - (kept if each.term.until_ms is not None else 0)) for each in ready]

    def _term(self, due: Due, room: int) -> Due:
        """Submit the jobs of a term that are due. Returns what was, with what is left: from where it failed on."""
        self.failed = self.failed or due.failed
        due = due.cut(max(room, 0))
        for count, fire_ms in enumerate(due.fires):
            self.room -= 1
            if not self._made(due.term, fire_ms):
                self.failed = True
                return due.cut(count)
            self.carried_out.append(fire_ms)
        if due.fires and due.left is not None and due.term.ends_others():
            self.room = 0  # not for one that fails: that may be for good
        return due

    def _made(self, term: Term, fire_ms: int) -> bool:
        """Whether this fire is done with. What it has changed is told even if it is not."""
        try:
            settled, made = _submitted(self.context, self.name, term, fire_ms, now_ms=self.now_ms)
        except (DatastoreError, ValueError) as error:  # the next sweep tries again
            log.warning("fire_failed", name=self.name, job=job_id(self.name, fire_ms), error=str(error))
            return False
        answer = settled.answer
        self.changes += settled.changes
        if answer.word is Word.OUTCOME_UNKNOWN:
            log.warning("fire_failed", name=self.name, job=made, error=answer.reason)
            return False
        if answer.good and not answer.body.get("joined"):
            self.last_job_id = made
        else:  # mostly another job with its unique key is not over, and perhaps joined: which one, says the answer
            log.warning("fire_made_no_job", name=self.name, job=made, why=answer.reason, told=answer.body)
        return True


def job_id(name: str, fire_ms: int) -> str:
    """The id of the job of one fire, such as `nightly.20260131T020000Z`."""
    return f"{name}.{datetime.fromtimestamp(fire_ms // 1_000, UTC):%Y%m%dT%H%M%SZ}"


def _submitted(context: Context, name: str, term: Term, fire_ms: int, *, now_ms: int) -> tuple[Settlement, str]:
    """Submit the job of one fire, and tell its id: another one where somebody has made a job of that id beforehand.

    Jobs are never deleted, so every sweep meets the same, and there is still one job of a fire.
    """
    named = job_id(name, fire_ms)
    first = submission.submit(context, _submission(name, term, fire_ms, named), now_ms=now_ms)
    if first.answer.reason is not Reason.EXISTS:
        return first, named
    other = _another_id(name, term, fire_ms)
    log.error("job_of_schedule_was_there", name=name, job=named, submitted_instead=other)
    second = submission.submit(context, _submission(name, term, fire_ms, other), now_ms=now_ms)
    if second.answer.reason is Reason.EXISTS:
        log.error("job_of_schedule_left_out", name=name, job=other)
    return Settlement(second.answer, (*first.changes, *second.changes)), other


def _another_id(name: str, term: Term, fire_ms: int) -> str:
    """Not to be known beforehand: whoever could work it out could take it, too."""
    digest = hashlib.sha256(f"{name} {fire_ms} {term.secret}".encode()).hexdigest()[:16]
    return f"{job_id(name, fire_ms)}.{digest}"


def _submission(name: str, term: Term, fire_ms: int, named: str) -> Submit:
    job = SubmitBody.model_validate(term.job)
    labels = {**job.labels, SCHEDULER: name}
    digest = hashlib.sha256(f"{name} {fire_ms}".encode()).hexdigest()[:40]
    return Submit(
        request_id=f"fire-{digest}",
        factory_id=SCHEDULER,
        incarnation=SCHEDULER,
        instance=SCHEDULER,
        body=job.model_copy(update={"job_id": named, "labels": labels}),
    )
