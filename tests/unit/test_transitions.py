"""The state machine, pair by pair: what each event does in each situation, and that nothing else does anything."""

from typing import Any

import msgspec
import pytest

from broker import transitions
from broker.answers import Reason, Word
from broker.documents import RECENT_REQUESTS_MAX, Job, Outcome, State
from broker.transitions import Replay, Rules, Write
from broker.transitions.decision import backoff_ms
from tests.unit.jobs import EPOCH, HOLDER, NOW, RULES, TOKEN, after, claimant, fence, job, lease
from tests.unit.transition_table import DEAD, EVENTS, ROWS, SITUATIONS, TABLE, Effect

PAIRS = [(situation, event) for situation in SITUATIONS for event in EVENTS]


def test_the_table_has_no_two_rows_for_one_pair() -> None:
    rows = [(situation, event) for situations, event, _ in ROWS for situation in situations]
    assert len(rows) == len(set(rows))


@pytest.mark.parametrize(("situation", "event"), PAIRS)
def test_an_event_does_what_its_row_says_and_nothing_where_there_is_none(situation: str, event: str) -> None:
    before = SITUATIONS[situation]
    decision = EVENTS[event](before)
    effect = TABLE.get((situation, event))
    if effect is None:
        assert not isinstance(decision, Write), f"{situation}, {event}: nothing must be written"
        return
    assert isinstance(decision, Write), f"{situation}, {event}: refused with {decision.answer}"
    _check(before, after(before, decision), effect)


def _check(before: Job, now: Job, effect: Effect) -> None:
    assert now.state == (before.state if effect.to == "=" else effect.to)
    assert now.epoch == before.epoch + effect.epoch
    assert (now.lease is not None) == (now.state is State.LEASED)  # I2
    if now.lease is not None:
        assert now.lease.epoch == now.epoch
    counters = before.counters.plain()
    if effect.counted is not None:
        counters[effect.counted] += 1
    if before.state in (State.FAILED, State.CANCELLED) and now.state is State.READY:
        counters |= {"failures": 0, "expiries": 0}
    assert now.counters.plain() == counters
    if effect.run is None:
        assert now.last_end == before.last_end
        return
    assert now.last_end is not None
    assert now.last_end.outcome == effect.run
    assert now.last_end.epoch == EPOCH
    assert (now.last_end.factory_id, now.last_end.incarnation) == (HOLDER["factory_id"], HOLDER["incarnation"])
    assert now.cancel is None, "a cancel is asked of one lease, not of the next"


def test_the_same_claim_again_is_the_same_grant_with_what_is_left_of_it() -> None:
    decision = EVENTS["the same claim"](SITUATIONS["leased"])
    assert isinstance(decision, Replay)
    assert decision.answer.word is Word.REPLAYED
    body = decision.answer.body
    assert (body["epoch"], body["token"], body["remaining_ms"], body["ttl_ms"]) == (EPOCH, TOKEN, 1_000, 60_000)


@pytest.mark.parametrize(
    ("fields", "goes"), [({}, True), ({"renewals": 1}, False), ({"instance": "y"}, False), ({"instance": None}, False)]
)
def test_a_grant_that_nobody_read_is_given_back_unless_it_was_renewed_or_told_to_another_client(
    fields: dict[str, Any], goes: bool
) -> None:
    held = job("leased", lease=lease(**{"instance": "x", **fields}))
    decision = transitions.release(held, fence(), now_ms=NOW, unread_by="x")
    assert isinstance(decision, Write) is goes
    assert goes or (decision.answer.word, decision.answer.reason) == (Word.CONFLICT, Reason.HELD)


@pytest.mark.parametrize("who", [claimant("other", "claim-1"), claimant("holder", "claim-1", incarnation="start-2")])
def test_a_request_id_alone_does_not_get_somebody_elses_token(who: transitions.Claimant) -> None:
    decision = transitions.claim(job("leased"), who, now_ms=NOW, rules=RULES)
    assert decision.answer.word is Word.CONFLICT
    assert "token" not in decision.answer.body


def test_a_claim_whose_lease_has_ended_is_not_granted_again() -> None:
    decision = EVENTS["the same claim"](SITUATIONS["ready, given back"])
    assert (decision.answer.word, decision.answer.reason) == (Word.REQUEST_EXPIRED, Reason.LEASE_OVER)


def test_a_claim_that_was_granted_long_ago_is_not_granted_again_after_others() -> None:
    now = job("ready", epoch=0)
    for number in range(1, 4):
        now = after(now, transitions.claim(now, claimant("f", f"c{number}"), now_ms=NOW, rules=RULES))
        own = fence(f"r{number}", factory_id="f", epoch=number, token="b" * 32)
        now = after(now, transitions.release(now, own, now_ms=NOW))
    for number in range(1, 4):
        again = transitions.claim(now, claimant("f", f"c{number}"), now_ms=NOW, rules=RULES)
        assert (again.answer.word, again.answer.reason) == (Word.REQUEST_EXPIRED, Reason.LEASE_OVER)


def test_a_conflict_says_who_holds_the_job_and_for_how_long_but_gives_no_token() -> None:
    answer = EVENTS["claim"](SITUATIONS["leased"]).answer
    assert (answer.word, answer.reason) == (Word.CONFLICT, Reason.HELD)
    assert answer.body == {
        "job_id": "job", "state": "leased", "epoch": EPOCH, "holder": "holder", "remaining_ms": 1_000,
    }  # fmt: skip


def test_a_refused_claim_names_every_obstacle() -> None:
    stuck = job(
        "blocked", epoch=0, requires=["gpu"], hold={"since_ms": NOW}, not_before_ms=NOW + 5, deadline_ms=NOW - 1
    )
    answer = transitions.claim(stuck, claimant(), now_ms=NOW, rules=RULES).answer
    assert (answer.word, answer.reason) == (Word.NOT_CLAIMABLE, Reason.TERMINAL)
    assert answer.body["reasons"] == ["terminal", "held", "blocked", "scheduled", "requirements"]


@pytest.mark.parametrize(
    ("own", "of_job", "expected"), [(5_000, 7_000, 5_000), (None, 7_000, 7_000), (None, None, 60_000)]
)
def test_the_claimants_ttl_comes_before_the_jobs_and_the_jobs_before_the_brokers(
    own: int | None, of_job: int | None, expected: int
) -> None:
    claimed = job("ready", epoch=0, ttl_ms=of_job)
    now = after(claimed, transitions.claim(claimed, claimant(ttl_ms=own), now_ms=NOW, rules=RULES))
    assert now.lease is not None
    assert (now.lease.ttl_ms, now.lease.expires_ms) == (expected, NOW + expected)


def test_a_renewal_counts_from_now_keeps_the_token_and_brings_a_cancel() -> None:
    before = SITUATIONS["leased, cancel asked"]
    decision = transitions.renew(before, fence(), now_ms=NOW, ttl_ms=9_000)
    now = after(before, decision)
    assert decision.answer.body["directives"] == ["cancel"]
    assert before.lease is not None
    assert now.lease == msgspec.structs.replace(before.lease, ttl_ms=9_000, expires_ms=NOW + 9_000, renewals=1)
    assert now.recent_requests == before.recent_requests, "renewals are idempotent by nature and not recorded"


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("failures", [0, 1, 5, 20, 10_000])
def test_a_failed_try_waits_a_share_of_a_doubling_bound(failures: int, jitter: float) -> None:
    rules = Rules(backoff_base_ms=1_000, backoff_max_ms=300_000)
    bound = min(300_000, 1_000 * 2 ** min(failures, 40))
    assert backoff_ms(failures, rules=rules, jitter=jitter) == int(bound * jitter)


def test_a_failed_try_is_not_claimable_before_its_backoff_is_over() -> None:
    failed = after(job("leased"), EVENTS["fail"](job("leased")))
    assert failed.not_before_ms == NOW + 500
    for ms, word in ((499, Word.NOT_CLAIMABLE), (500, Word.GRANTED)):
        assert transitions.claim(failed, claimant(), now_ms=NOW + ms, rules=RULES).answer.word is word


def test_redrive_starts_the_deadline_anew_and_keeps_the_epoch() -> None:
    before = job("failed", timeout_ms=10_000, deadline_ms=NOW - 1, counters={"failures": 3, "releases": 2})
    now = after(before, EVENTS["redrive"](before))
    assert (now.deadline_ms, now.epoch, now.counters.releases) == (NOW + 10_000, EPOCH, 2)
    taken = after(now, transitions.claim(now, claimant(), now_ms=NOW, rules=RULES))
    assert taken.epoch == EPOCH + 1


def test_another_hold_without_a_reason_keeps_the_first_and_one_with_a_reason_says_it() -> None:
    found = job("ready", hold={"reason": "bad host", "since_ms": NOW - 9})
    leased = job("leased", hold={"reason": "bad host", "since_ms": NOW - 9})
    for reason, expected in ((None, ("bad host", NOW - 9)), ("bad host", ("bad host", NOW - 9)), ("new", ("new", NOW))):
        held = after(found, transitions.hold(found, request_id="h", by="f", now_ms=NOW, reason=reason))
        revoked = transitions.revoke(leased, request_id="h", by="f", now_ms=NOW, reason=reason, and_hold=True)
        for each in (held, after(leased, revoked)):
            assert each.hold is not None
            assert (each.hold.reason, each.hold.since_ms) == expected


def test_revoke_and_hold_keeps_the_job_from_everybody_until_it_is_lifted() -> None:
    held = after(job("leased"), EVENTS["revoke and hold"](job("leased")))
    assert EVENTS["claim"](held).answer.reason is Reason.HELD
    lifted = after(held, transitions.lift(held, request_id="lift", by="f", now_ms=NOW))
    assert EVENTS["claim"](lifted).answer.word is Word.GRANTED


@pytest.mark.parametrize(
    "event", ["complete", "fail", "fail for good", "release", "cancel", "revoke", "revoke and hold", "hold", "lift"]
)
def test_a_resend_is_a_replay_and_changes_nothing(event: str) -> None:
    now = after(SITUATIONS["leased"], EVENTS[event](SITUATIONS["leased"]))
    again = EVENTS[event](now)
    assert isinstance(again, Replay)
    assert again.answer.word is Word.REPLAYED
    assert again.answer.body["state"] == now.state.value


def test_a_job_remembers_no_more_requests_than_it_says() -> None:
    assert RECENT_REQUESTS_MAX == 8  # design §3
    now = job("ready")
    for number in range(RECENT_REQUESTS_MAX + 5):
        now = after(now, transitions.hold(now, request_id=f"r{number}", by="f", now_ms=NOW, reason=None))
        assert len(now.recent_requests) == min(number + 1, RECENT_REQUESTS_MAX)
    assert now.recent(f"r{RECENT_REQUESTS_MAX + 4}", "f")
    assert now.recent("r0", "f") is None


def test_results_and_errors_go_to_the_end_of_the_run_not_to_the_job() -> None:
    done = after(job("leased"), EVENTS["complete"](job("leased")))
    assert done.last_end is not None
    assert done.last_end.result == {"n": 1}
    assert done.last_end.outcome is Outcome.SUCCEEDED
    assert "result" not in done.document.body


def test_a_lease_dies_only_after_its_expiry_and_the_whole_skew_allowance() -> None:
    for ms, gone in ((0, False), (RULES.skew_ms, False), (RULES.skew_ms + 1, True)):
        leased = job("leased", lease=lease(expires_ms=NOW - ms))
        assert isinstance(EVENTS["reap"](leased), Write) is gone
        assert (EVENTS["claim"](leased).answer.word is Word.GRANTED) is gone


def test_a_dead_lease_whose_job_is_not_for_this_claimant_is_left_to_the_sweep() -> None:
    leased = job("leased", lease=DEAD, requires=["gpu"])
    decision = EVENTS["claim"](leased)
    assert not isinstance(decision, Write)
    assert decision.answer.reason is Reason.REQUIREMENTS


def test_a_late_holder_is_told_how_the_job_ended_not_how_its_own_run_did() -> None:
    released = after(job("leased"), EVENTS["release"](job("leased")))
    cancelled = after(
        released, transitions.cancel(released, request_id="op", by="f", now_ms=NOW, rules=RULES, reason=None)
    )
    answer = transitions.complete(cancelled, fence("late"), now_ms=NOW, result=None).answer
    assert (answer.word, answer.body["outcome"]) == (Word.ALREADY_TERMINAL, "cancelled")
