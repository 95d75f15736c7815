"""Histories told by hand: a line for a call, with its moments."""

import itertools
from collections.abc import Iterator
from typing import Any

from broker.history import Record, Report, check
from broker.history.record import Kind

FOREVER = 1 << 62


class Story:
    """Calls on one job of a few clients; each gets a request id of its own unless one is named."""

    def __init__(self, job: str = "j", numbers: Iterator[int] | None = None) -> None:
        """`numbers`: of its calls."""
        self.job = job
        self.records: list[Record] = []
        self._numbers = itertools.count(1) if numbers is None else numbers

    def call(self, op: str, sent: int, at: int | None, *, type: Kind = "ok", by: str = "a", **fields: Any) -> Record:
        """One call from `sent` to `at`; None: its client never learned."""
        number = next(self._numbers)
        given: dict[str, Any] = {"request": f"r{number}", "job": self.job, "incarnation": f"{by}-1", **fields}
        learned = {name: given.pop(name) for name in ("answer", "reason", "state", "seen", "did") if name in given}
        invoked = Record(type="invoke", at=sent, client=f"client-{by}", call=number, op=op, factory=by, **given)
        self.records.append(invoked)
        if at is None:
            return invoked
        ended = Record(
            type=type, at=at, sent=sent, client=f"client-{by}", call=number, op=op, factory=by, **given, **learned
        )
        self.records.append(ended)
        return ended

    def submit(self, sent: int = 0, at: int = 1, **fields: Any) -> Record:
        return self.call("submit", sent, at, answer="ok", state="ready", **fields)

    def grant(self, epoch: int, sent: int, at: int, *, by: str = "a", **fields: Any) -> Record:
        fields = {"token": f"t{epoch}", "answer": "granted", **fields}
        return self.call("claim", sent, at, by=by, epoch=epoch, **fields)

    def hold(self, op: str, epoch: int, sent: int, at: int | None, *, by: str = "a", **fields: Any) -> Record:
        """A holder's renewal, completion, …; it is taken."""
        after = {"complete": "succeeded", "release": "ready", "fail": "scheduled", "hand_over": "ready"}
        fields = {"token": f"t{epoch}", "answer": "ok", "state": after.get(op), **fields}
        return self.call(op, sent, at, by=by, epoch=epoch, **fields)

    def refused(self, op: str, sent: int, at: int, **fields: Any) -> Record:
        return self.call(op, sent, at, type="refused", **fields)

    def check(self, **options: Any) -> Report:
        return check(self.records, **options)

    def rules(self, **options: Any) -> list[str]:
        """The rules that are broken, each once."""
        return sorted({violation.rule.value for violation in self.check(**options).violations})


def several(*jobs: str) -> list[Story]:
    """Stories of several jobs that are parts of one history."""
    numbers = itertools.count(1)
    return [Story(job, numbers) for job in jobs]


def together(*stories: Story) -> list[Record]:
    """The history they are parts of."""
    return [record for story in stories for record in story.records]


def claimed() -> Story:
    """Submitted, and granted to `a` at epoch 1."""
    story = Story()
    story.submit(0, 1)
    story.grant(1, 2, 3)
    return story
