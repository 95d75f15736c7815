"""Events: each transition is told once, in its own word, with who, when and why, and never with a token."""

from typing import Any, cast

import msgspec
import pytest
from msgspec import structs
from redis.client import Pipeline

from broker import telling
from broker.answers import Answer, Word
from broker.client.tail import Tail
from broker.documents import Job
from broker.events import REASON_CHARS_MAX, Event
from broker.lease_bodies import EPOCH_MAX
from broker.messages import Claim, ClaimBody, RenewMany, Submit, SubmitBody
from broker.settlement import Change
from broker.telling import ENTRY_BYTES_MAX, ENTRY_EVENTS_MAX, EVENT_LEASES_MAX
from tests.unit.jobs import EPOCH, NOW, TOKEN, job, lease

HELD = job("leased")


def _ended(state: str, outcome: str, **fields: Any) -> Job:
    end = {**lease(), "started_ms": NOW, "ended_ms": NOW, "outcome": outcome, "error": fields.pop("error", None)}
    return job(state, last_end=end, **fields)


def _names(before: Job | None, after: Job) -> list[str]:
    return [event.event for event in telling.of_change(Change(before, after), now_ms=NOW)]


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (job("ready", epoch=EPOCH - 1), HELD, ["claimed"]),
        (HELD, job("leased", lease=lease(renewals=1)), ["renewed"]),
        (HELD, job("leased", lease=lease(stuck_ms=NOW)), ["stuck"]),
        (job("leased", lease=lease(stuck_ms=NOW)), HELD, ["unstuck"]),
        (HELD, _ended("succeeded", "succeeded"), ["completed"]),
        (HELD, _ended("scheduled", "failed", not_before_ms=NOW + 5), ["failed"]),
        (HELD, _ended("failed", "failed"), ["failed"]),
        (HELD, _ended("ready", "released"), ["released"]),
        (HELD, _ended("ready", "expired"), ["expired"]),
        (HELD, _ended("ready", "revoked"), ["revoked"]),
        (HELD, _ended("ready", "revoked", hold={"reason": "x", "since_ms": NOW}), ["revoked", "held"]),
        (HELD, _ended("cancelled", "cancelled"), ["cancelled"]),
        (HELD, _ended("failed", "timed_out"), ["timed_out"]),
        (HELD, job("leased", cancel={"asked_ms": NOW, "enforce_ms": NOW + 5}), ["cancel_asked"]),
        (
            HELD,
            _ended("leased", "expired", epoch=EPOCH + 1, lease=lease(epoch=EPOCH + 1, factory_id="next")),
            ["expired", "claimed"],
        ),
        (job("ready"), job("cancelled"), ["cancelled"]),
        (job("failed"), job("ready"), ["redriven"]),
        (job("blocked"), job("ready"), ["ready"]),
        (job("blocked"), job("scheduled"), ["scheduled"]),
        (job("scheduled"), job("ready"), ["ready"]),
        (job("scheduled"), job("failed", deadline_ms=NOW - 1), ["timed_out"]),
        (job("ready", hold={"since_ms": NOW}), job("ready"), ["lifted"]),
        (HELD, HELD, []),
    ],
)
def test_each_transition_has_its_word(before: Job | None, after: Job, told: list[str]) -> None:
    assert _names(before, after) == told


def test_a_takeover_tells_whose_lease_died_and_who_has_the_job_now() -> None:
    after = _ended("leased", "expired", epoch=EPOCH + 1, lease=lease(epoch=EPOCH + 1, factory_id="next"))
    expired, claimed = telling.of_change(Change(HELD, after), now_ms=NOW)
    assert (expired.epoch, expired.factory_id, expired.request_id) == (EPOCH, "holder", "claim-1")
    assert (claimed.epoch, claimed.factory_id) == (EPOCH + 1, "next")


def test_a_long_reason_is_cut_and_no_token_is_told() -> None:
    [event] = telling.of_change(Change(HELD, _ended("failed", "failed", error="x" * 16_000)), now_ms=NOW)
    assert len(event.reason or "") == REASON_CHARS_MAX
    assert TOKEN not in str(event.plain())


def test_what_moves_only_hints_is_not_told_again() -> None:
    address = {"factory_id": "f", "incarnation": "i", "instance": "x", "request_id": "r"}
    submit = Submit(**address, body=SubmitBody(job_id="job"))
    again, new = Change(None, job("ready")), Change(None, job("ready"), new=True)
    assert list(telling.of_request(submit, Answer(Word.REPLAYED), (again,), now_ms=NOW)) == []
    assert [event.event for event in telling.of_request(submit, Answer(Word.OK), (new,), now_ms=NOW)] == ["submitted"]


RENEWED = [
    job("leased", lease=lease(renewals=number, expires_ms=NOW + number), id=f"job-{number}") for number in range(1, 101)
]
BY_ITS_HOLDER = RenewMany.model_validate(
    {"factory_id": "holder", "incarnation": "i", "instance": "x", "request_id": "r"}
    | {"body": {"leases": [{"job_id": "job-1", "epoch": EPOCH, "token": TOKEN}]}}
)


def test_leases_renewed_together_are_told_as_if_each_had_been_renewed_by_itself() -> None:
    told = list(telling.of_renewals(BY_ITS_HOLDER, RENEWED, now_ms=NOW))
    alone = [Change(job("leased", lease=lease(), id=after.id), after) for after in RENEWED]
    assert [len(event.leases) for event in told] == [64, 36]
    assert [each for event in told for each in event.each()] == [
        event for change in alone for event in telling.of_change(change, BY_ITS_HOLDER, now_ms=NOW)
    ]


class Written:
    """What a pipeline was given for the stream."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []

    def execute_command(self, *parts: Any) -> None:
        self.entries.append(parts[-1])


def test_a_reader_goes_on_behind_any_of_the_leases_that_were_renewed_together() -> None:
    pipe = Written()
    [lost] = telling.of_change(Change(HELD, _ended("failed", "failed")), now_ms=NOW)
    telling.publish(cast(Pipeline, pipe), [lost, *telling.of_renewals(BY_ITS_HOLDER, RENEWED, now_ms=NOW), lost])
    entries = [(f"{number}-0".encode(), {b"e": entry}) for number, entry in enumerate(pipe.entries, 1)]
    read = list(Tail(None).feed([[b"stream", entries]]))
    assert [event.event for event in read] == ["failed", *["renewed"] * 100, "failed"]
    assert [event.job_id for event in read[1:-1]] == [after.id for after in RENEWED]
    assert (read[50].cursor, read[65].cursor) == ("2-0.49", "3-0.0")
    assert list(Tail(read[50].cursor).feed([[b"stream", entries[1:]]])) == read[51:]


TIME = 4_102_444_800_000
LONG = "n" * 128
"""A name of a job or a factory, as long as it may be."""
LONGEST = [
    Event(
        event="factory_registered",
        job_id=LONG,
        at_ms=TIME,
        epoch=EPOCH_MAX,
        factory_id=LONG,
        request_id="r" * 64,
        by=LONG,
        holder=LONG,
        state="succeeded",
        reason="\x01" * REASON_CHARS_MAX,
        until_ms=TIME,
        renewals=EPOCH_MAX,
        subject=f"schedule factory:{LONG}",
    )
] * 40
LONGEST_RENEWED = [Event(event="renewed", job_id="", at_ms=TIME, leases=[(LONG, EPOCH_MAX, EPOCH_MAX, TIME)] * 64)] * 3


@pytest.mark.parametrize("events", [LONGEST, LONGEST_RENEWED], ids=["told", "renewed"])
def test_an_entry_has_a_bound_in_bytes_whatever_it_tells_of(events: list[Event]) -> None:
    pipe = Written()
    telling.publish(cast(Pipeline, pipe), events)
    assert max(map(len, pipe.entries)) <= ENTRY_BYTES_MAX
    read = Tail(None).feed([[b"stream", [(f"{n}-0".encode(), {b"e": e}) for n, e in enumerate(pipe.entries, 1)]]])
    assert [structs.replace(each, cursor="") for each in read] == [each for event in events for each in event.each()]


def test_without_a_bound_in_bytes_an_entry_grows_with_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin."""
    monkeypatch.setattr(telling, "ENTRY_BYTES_MAX", 1_000_000)
    pipe = Written()
    telling.publish(cast(Pipeline, pipe), LONGEST)
    assert max(map(len, pipe.entries)) > 5 * ENTRY_BYTES_MAX


def test_ordinary_events_fill_an_entry_by_their_number() -> None:
    id = "0123456789abcdef" * 2
    claimed = Event(event="claimed", job_id=id, at_ms=TIME, epoch=12, factory_id="mac-mini-12", request_id=id,
                    state="leased", until_ms=TIME)  # fmt: skip
    renewed = Event(event="renewed", job_id="", at_ms=TIME, factory_id="mac-mini-12", request_id=id, state="leased",
                    leases=[(id, 12, 12, TIME)] * EVENT_LEASES_MAX)  # fmt: skip
    pipe = Written()
    telling.publish(cast(Pipeline, pipe), [*[claimed] * ENTRY_EVENTS_MAX, renewed])
    assert len(pipe.entries) == 2


def test_a_grant_is_read_as_its_change_is_told() -> None:
    by = Claim(factory_id="holder", incarnation="i", instance="x", request_id="claim-1", body=ClaimBody(job_id="job"))
    grant, pipe = Change(job("ready", epoch=EPOCH - 1), HELD), Written()
    told = telling.of_request(by, Answer(Word.GRANTED), (grant,), now_ms=NOW)
    telling.publish(cast(Pipeline, pipe), told)
    [read] = Tail(None).feed([[b"stream", [(b"1-0", {b"e": pipe.entries[0]})]]])
    [event] = telling.of_change(grant, by, now_ms=NOW)
    assert read == structs.replace(event, cursor="1-0.0")
    assert pipe.entries[0] == msgspec.json.encode([event])


NESTED = b'[{"event":"renewed","job_id":"a","at_ms":1,"more":' + b"[" * 100_000


@pytest.mark.parametrize("entry", [b"garbage", b"{}", b'[{"event":"\xff","job_id":"a","at_ms":1}]', NESTED])
def test_a_reader_goes_on_behind_what_nobody_of_ours_has_written(entry: bytes) -> None:
    pipe = Written()
    telling.publish(cast(Pipeline, pipe), telling.of_renewals(BY_ITS_HOLDER, RENEWED[:1], now_ms=NOW))
    entries = [(b"1-0", {b"e": entry}), (b"2-0", {b"e": pipe.entries[0]})]
    assert [event.cursor for event in Tail(None).feed([[b"stream", entries]])] == ["2-0.0"]
