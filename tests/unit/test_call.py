"""What a client says of a request that was not answered, and what a holder counts its deadline from."""

from collections.abc import Sequence
from typing import Any

import pytest
from redis.exceptions import ResponseError

from broker.answers import Answer, Reason, Word, wire
from broker.client import BrokerTimeout, BrokerUnavailable, InvalidRequest, NewId, Reply
from broker.client.call import Address, BrokerTime, Call
from broker.client.not_now import way_out
from broker.client.pending import Pending
from broker.client.reply import parse_reply
from broker.client.tenure import Tenure
from broker.entropy import SystemEntropy
from broker.messages import Cancel, Claim, Complete, Envelope
from broker.parsing import parse
from broker.replies import encode

ADDRESS = Address(factory_id="f", incarnation="i", instance="x")
TOKEN = "0123456789abcdef0123456789abcdef"


def call(kind: type[Envelope] = Claim, request_id: str | None = None, **body: Any) -> Call:
    return Call(kind, body, ADDRESS, request_id=request_id, timeout_ms=10_000, now_ms=1_000, entropy=SystemEntropy())


def reply(answer: Answer, *, request_id: str = "r", sent_ms: int = 0) -> Reply:
    return parse_reply(encode(wire(answer, request_id=request_id, now_ms=5_000))).sent_at(sent_ms)


def grant(*, job_id: str = "job", sent_ms: int = 0, request_id: str = "r", **changes: Any) -> Reply:
    body = {"job_id": job_id, "queue": "q", "epoch": 1, "token": TOKEN, "ttl_ms": 60_000, "remaining_ms": 60_000}
    return reply(Answer(Word.GRANTED, body=body | changes), request_id=request_id, sent_ms=sent_ms)


def test_without_an_attempt_nothing_was_sent() -> None:
    with pytest.raises(BrokerUnavailable, match="nothing was sent"):
        call().answer()


def test_after_an_attempt_the_outcome_is_unknown_and_the_request_id_is_told() -> None:
    sent = call()
    sent.on_its_way()
    with pytest.raises(BrokerTimeout) as unknown:
        sent.answer()
    assert unknown.value.request_id == sent.request_id


def test_a_request_id_of_the_callers_own_may_have_been_sent_before() -> None:
    repeated = call(request_id="mine")
    assert parse(repeated.next_attempt(1_000, BrokerTime()).text).attempt == 2
    with pytest.raises(BrokerTimeout):
        repeated.answer()


@pytest.mark.parametrize("out", [0, 1], ids=["an earlier call", "an earlier attempt"])
def test_where_redis_takes_no_more_than_may_have_been_sent_before_it_is_told_what_redis_said(out: int) -> None:
    repeated = call(request_id=None if out else "mine")
    for _ in range(out + 1):
        repeated.next_attempt(1_000, BrokerTime())
        repeated.on_its_way()
    repeated.never_left("MISCONF can't persist")
    with pytest.raises(
        BrokerTimeout, match=r"took nothing the last time: MISCONF can't persist; it can't write"
    ) as told:
        repeated.answer()
    assert "worker" not in str(told.value)
    assert "it can't write to its disk: make room there" in str(told.value)
    repeated.on_its_way()
    with pytest.raises(BrokerTimeout, match="is a broker worker running"):
        repeated.answer()


@pytest.mark.parametrize(("said", "tells"), [("NOREPLICAS Not enough", False), ("NOPERM no permissions", True)])
def test_a_channel_that_was_refused_for_a_while_or_is_read_again_is_not_said_to_be_refused(
    said: str, tells: bool
) -> None:
    def told() -> str:
        asked = call()
        asked.on_its_way()
        pending.forget(asked, abandoned=False)
        with pytest.raises(BrokerTimeout) as error:
            asked.answer()
        return str(error.value)

    pending = Pending(BrokerTime(), lambda: 0)
    pending.lost(ResponseError(said))
    assert ("refuses to show it" in told()) is tells
    pending.heard_again()
    assert "refuses to show it" not in told()


def test_the_advice_where_redis_cannot_write_is_one_sentence() -> None:
    assert "; " not in str(way_out("MISCONF can't persist")), "the command line takes what is behind the last one"


def test_only_a_claim_that_may_be_kept_waiting_is_sent_again_later_for_its_wait() -> None:
    ends = [
        call(**body).attempt_ends_ms(1_000, 3_000, None)
        for body in ({"wait_ms": 5_000}, {"wait_ms": 5_000, "job_id": "job"}, {"job_id": None, "wait_ms": 5_000}, {})
    ]
    assert ends == [9_000, 4_000, 9_000, 4_000]


def test_an_id_of_the_callers_own_that_is_new_was_not_sent_before() -> None:
    first = call(request_id=NewId("mine"))
    assert parse(first.next_attempt(1_000, BrokerTime()).text).attempt == 1
    with pytest.raises(BrokerUnavailable, match="nothing was sent"):
        first.answer()
    first.on_its_way()
    first.reply = reply(Answer(Word.THROTTLED, Reason.OVERLOADED))
    assert first.settled
    assert first.answer().answer is Word.THROTTLED


def test_an_id_that_was_new_is_so_no_more_where_the_outcome_is_unknown() -> None:
    sent = call(request_id=NewId("mine"))
    sent.on_its_way()
    with pytest.raises(BrokerTimeout) as unknown:
        sent.answer()
    assert call(request_id=unknown.value.request_id).repeats


def test_an_attempt_that_was_never_sent_is_not_counted() -> None:
    retried = call()
    assert [parse(retried.next_attempt(1_000, BrokerTime()).text).attempt for _ in range(3)] == [1, 1, 1]
    retried.on_its_way()
    assert parse(retried.next_attempt(1_000, BrokerTime()).text).attempt == 2


@pytest.mark.parametrize("is_sent", [True, False])
def test_a_claim_that_is_sent_again_asks_for_the_wait_that_is_left(is_sent: bool) -> None:
    waiting, waits = call(wait_ms=5_000), []
    for now_ms in (1_000, 3_500, 6_500):
        claim = parse(waiting.next_attempt(now_ms, BrokerTime()).text)
        assert isinstance(claim, Claim)
        waits.append(claim.body.wait_ms)
        waiting.on_its_way()
        if not is_sent:
            waiting.never_left("READONLY")
    assert waits == [5_000, 2_500, 0]


@pytest.mark.parametrize("reason", [None, Reason.LEASE_OVER])
def test_an_expired_resend_says_nothing_of_the_first_attempt(reason: Reason | None) -> None:
    resent = call()
    for _ in range(2):
        resent.next_attempt(1_000, BrokerTime())
        resent.on_its_way()
    resent.reply = reply(Answer(Word.REQUEST_EXPIRED, reason))
    if reason is None:
        with pytest.raises(BrokerTimeout):
            resent.answer()
    else:  # it was granted, and that lease is over: this is known
        assert resent.answer().answer is Word.REQUEST_EXPIRED


def test_an_unknown_outcome_is_asked_again_and_told_in_the_end() -> None:
    asked = call()
    asked.reply = reply(Answer(Word.OUTCOME_UNKNOWN))
    assert not asked.settled
    assert asked.answer().answer is Word.OUTCOME_UNKNOWN


def test_the_deadline_of_a_request_is_broker_time_and_includes_the_wait() -> None:
    time = BrokerTime()
    assert parse(call().next_attempt(1_000, time).text).deadline_ms is None
    time.learn(1_000_000, sent_ms=990, received_ms=1_010)
    assert parse(call().next_attempt(1_000, time).text).deadline_ms == 1_010_000
    assert parse(call(wait_ms=5_000).next_attempt(1_000, time).text).deadline_ms == 1_015_000


def test_a_timeout_may_be_a_fraction() -> None:
    time = BrokerTime()
    time.learn(9_000_000, sent_ms=1_000, received_ms=1_000)
    asked = Call(Claim, {}, ADDRESS, request_id=None, timeout_ms=2.5, now_ms=1_000, entropy=SystemEntropy())  # type: ignore[arg-type]
    assert parse(asked.next_attempt(1_000, time).text).deadline_ms == 9_000_002


def test_broker_time_follows_a_clock_that_was_set() -> None:
    time = BrokerTime()
    time.learn(1_000_000, sent_ms=0, received_ms=10)
    time.learn(5_000_000, sent_ms=100, received_ms=110)
    assert 5_000_000 <= (time.at(110) or 0) <= 5_000_010


def test_a_bad_argument_is_refused_without_being_shown() -> None:
    with pytest.raises(InvalidRequest) as refused:
        call(Complete, job_id="j", epoch=1, token="secret" * 100)
    assert "secret" not in str(refused.value)
    assert "token" in str(refused.value)


def test_a_reply_shows_no_token() -> None:
    shown = repr(grant()) + grant().summary
    assert "job_id=job" in shown
    assert TOKEN not in shown


def test_a_holder_counts_from_the_moment_it_sent() -> None:
    assert Tenure(grant(sent_ms=1_000)).deadline_ms == 1_000 + 60_000 - 6_000
    assert Tenure(grant(sent_ms=1_000)).renewal_due_ms == 1_000 + 10_000


def test_a_replayed_grant_has_only_what_is_left_of_it() -> None:
    assert Tenure(grant(sent_ms=1_000, remaining_ms=20_000)).deadline_ms == 1_000 + 20_000 - 6_000
    assert Tenure(grant(sent_ms=1_000, remaining_ms=0)).over(1_000)


def test_only_a_good_renewal_moves_the_deadline() -> None:
    tenure = Tenure(grant(sent_ms=0))
    for answer in (Answer(Word.REQUEST_EXPIRED), Answer(Word.THROTTLED), Answer(Word.OUTCOME_UNKNOWN)):
        assert tenure.renewed(reply(answer, sent_ms=9_000), now_ms=9_001, jitter=0.5)
        assert tenure.deadline_ms == 54_000
        assert 9_001 < tenure.renewal_due_ms <= 9_001 + 6_000
    good = Answer(Word.RENEWED, body={"job_id": "job", "epoch": 1, "ttl_ms": 60_000, "directives": ["cancel"]})
    assert tenure.renewed(reply(good, sent_ms=9_000), now_ms=9_001, jitter=0.5)
    assert tenure.deadline_ms == 9_000 + 54_000
    assert tenure.renewal_due_ms == 9_000 + 20_000
    assert tenure.directives == {"cancel"}
    assert not tenure.renewed(reply(Answer(Word.LEASE_LOST, Reason.REVOKED)), now_ms=9_001, jitter=0.5)


class Future:
    """The least that counts as one."""

    def __init__(self) -> None:
        self.woken = False

    def done(self) -> bool:
        return self.woken

    def set_result(self, result: None, /) -> None:  # noqa: ARG002  # what there is to know is in the call
        assert not self.woken, "a future is completed once"
        self.woken = True


def deliver(pending: Pending, answer: Answer, request_id: str) -> Sequence[Reply]:
    return pending.deliver(encode(wire(answer, request_id=request_id, now_ms=5_000)))


def granted(job_id: str) -> Answer:
    body = {"job_id": job_id, "queue": "q", "epoch": 1, "token": TOKEN, "ttl_ms": 60_000}
    return Answer(Word.GRANTED, body=body)


def several(*jobs: str) -> Answer:
    return Answer(Word.GRANTED, body={"grants": [granted(job).body for job in jobs]})


def test_the_first_grant_is_kept_and_a_second_one_of_another_job_given_back() -> None:
    pending = Pending(BrokerTime(), lambda: 0)
    asked, future = call(), Future()
    pending.expect(asked, future)
    assert deliver(pending, granted("first"), asked.request_id) == ()
    pending.forget(asked, abandoned=False)
    assert future.woken
    assert asked.reply is not None
    assert asked.reply.body["job_id"] == "first"
    assert not deliver(pending, granted("first"), asked.request_id), "the answer to a resend"
    [surplus] = deliver(pending, granted("second"), asked.request_id)
    assert surplus.body["job_id"] == "second"


def test_of_a_second_set_of_grants_those_not_kept_are_given_back() -> None:
    pending = Pending(BrokerTime(), lambda: 0)
    asked, future = call(count=2), Future()
    pending.expect(asked, future)
    assert deliver(pending, several("a", "b"), asked.request_id) == ()
    pending.forget(asked, abandoned=False)
    assert future.woken
    assert asked.reply is not None
    assert [grant.body["job_id"] for grant in asked.reply.grants] == ["a", "b"]
    assert [grant.body["job_id"] for grant in deliver(pending, several("b", "c"), asked.request_id)] == ["c"]


def test_no_grant_of_several_shows_its_token() -> None:
    future = Future()
    pending = Pending(BrokerTime(), lambda: 0)
    asked = call(request_id="r")
    pending.expect(asked, future)
    deliver(pending, several("a", "b"), "r")
    assert asked.reply is not None
    assert TOKEN not in repr(asked.reply) + asked.reply.summary + repr(asked.reply.grants)


def test_a_grant_nobody_will_ask_for_is_given_back_and_one_that_may_be_repeated_is_not() -> None:
    pending = Pending(BrokerTime(), lambda: 0)
    for abandoned in (True, False):
        asked = call()
        pending.expect(asked, Future())
        pending.forget(asked, abandoned=abandoned)
        assert bool(deliver(pending, granted("job"), asked.request_id)) == abandoned


def test_as_a_lost_channel_is_read_again_claims_that_wait_are_to_be_sent_again_and_nothing_else_is() -> None:
    pending = Pending(BrokerTime(), lambda: 0)
    waiting, short = (call(wait_ms=5_000), Future()), (call(), Future())
    for asked, future in (waiting, short):
        pending.expect(asked, future)
    pending.heard_again()
    assert [future.woken for _, future in (waiting, short)] == [True, False]
    assert [pending.awaits([asked]) for asked, _ in (waiting, short)] == [False, True]
    waiting[0].next_attempt(1_000, BrokerTime())
    assert pending.awaits([waiting[0]])


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"v":1}', b"\xff", b'{"request_id":"r","answer":"new word"}'])
def test_what_is_no_reply_is_passed_over(text: bytes) -> None:
    pending = Pending(BrokerTime(), lambda: 0)
    assert pending.deliver(text) == ()


def test_several_callers_of_one_request_id_all_get_its_answer() -> None:
    pending = Pending(BrokerTime(), lambda: 0)
    calls = [(call(request_id="shared"), Future()) for _ in range(2)]
    for asked, future in calls:
        pending.expect(asked, future)
    deliver(pending, granted("job"), "shared")
    assert [(asked.reply is not None, future.woken) for asked, future in calls] == [(True, True)] * 2


def test_a_repeated_call_does_not_take_the_expiry_of_an_earlier_copy_for_its_own_answer() -> None:
    """The copy waited in the queue past its deadline, and is answered just before the repeated one."""
    clock = [1_000]
    pending = Pending(BrokerTime(), lambda: clock[0])
    repeated, future = call(request_id="r"), Future()
    pending.expect(repeated, future)
    deliver(pending, Answer(Word.REQUEST_EXPIRED), "r")
    assert not future.done()
    deliver(pending, granted("job"), "r")
    assert future.woken
    assert repeated.reply is not None
    assert repeated.reply.answer is Word.GRANTED


@pytest.mark.parametrize(
    ("answer", "now_ms"),
    [(Answer(Word.REQUEST_EXPIRED, Reason.LEASE_OVER), 1_000), (Answer(Word.REQUEST_EXPIRED), 60_000)],
)
def test_a_repeated_call_takes_an_expiry_that_is_its_own(answer: Answer, now_ms: int) -> None:
    pending = Pending(BrokerTime(), lambda: now_ms)
    repeated, future = call(request_id="r"), Future()
    pending.expect(repeated, future)
    deliver(pending, answer, "r")
    assert future.woken
    assert repeated.reply is not None


def test_a_resend_that_was_turned_away_says_nothing_of_the_first_attempt() -> None:
    resent = call()
    resent.next_attempt(1_000, BrokerTime())
    resent.on_its_way()
    resent.reply = reply(Answer(Word.THROTTLED, Reason.OVERLOADED))
    settled = [resent.settled]  # there is one copy, and it was not looked at
    resent.next_attempt(1_000, BrokerTime())
    settled.append(resent.settled)
    assert settled == [True, False]
    with pytest.raises(BrokerTimeout):
        resent.answer()


def sent_and_refused(kind: type[Envelope], refusal: Answer, *, copies: int = 2, **body: Any) -> Call:
    """A request of which so many copies are on their way, and one is refused."""
    asked = call(kind, **body)
    for _ in range(copies):
        asked.next_attempt(1_000, BrokerTime())
        asked.on_its_way()
    asked.reply = reply(refusal)
    return asked


REFUSAL = Answer(Word.CONFLICT, Reason.NOT_UNIQUE)


@pytest.mark.parametrize("refusal", [REFUSAL, Answer(Word.NOT_FOUND)])
def test_a_refusal_of_one_copy_of_several_is_believed_once_it_was_said_behind_them_all(refusal: Answer) -> None:
    asked = sent_and_refused(Cancel, refusal, job_id="job")
    settled = [asked.settled]  # the other may be carried out yet
    assert asked.answer().answer is refusal.word, "where there is no time to ask"
    assert parse(asked.next_attempt(1_000, BrokerTime()).text).attempt == 3
    asked.on_its_way()
    for answer in (refusal, Answer(Word.REPLAYED)):
        asked.reply = reply(answer)
        settled.append(asked.settled)
    assert settled == [False, True, True]


@pytest.mark.parametrize(
    "asked",
    [
        sent_and_refused(Cancel, REFUSAL, copies=1, job_id="job"),
        sent_and_refused(Cancel, Answer(Word.ALREADY_TERMINAL), job_id="job"),
        sent_and_refused(Complete, Answer(Word.LEASE_LOST), job_id="job", epoch=1, token=TOKEN),
        sent_and_refused(Claim, Answer(Word.CONFLICT, Reason.HELD), job_id="job"),
    ],
    ids=["the only copy", "what stays so", "what stays so of a lease", "a claim, whose late grant is given back"],
)
def test_any_other_refusal_is_believed_at_once(asked: Call) -> None:
    assert asked.settled


def repeated_and_answered(now_ms: int) -> tuple[Call, BrokerTime]:
    """A call sent at 50 s that an earlier one may have made, answered at `now_ms` in broker time, 1,000 s ahead."""
    time = BrokerTime()
    time.learn(1_000_000, sent_ms=0, received_ms=0)
    pending = Pending(time, lambda: 50_010)
    repeated = call(request_id="r")
    repeated.next_attempt(50_000, time)
    pending.expect(repeated, Future())
    pending.deliver(encode(wire(granted("job"), request_id="r", now_ms=now_ms)))
    return repeated, time


def test_a_repeated_call_counts_from_an_old_answer_not_from_its_own_sending() -> None:
    """Redis stood still: the grant of an earlier call comes to a later one, most of its ttl gone (I9)."""
    repeated, time = repeated_and_answered(1_002_000)
    assert repeated.reply is not None
    assert repeated.reply.sent_monotonic_ms == 2_000
    assert time.at(0) == 1_000_000, "an old answer says nothing of the time now"


def test_a_repeated_call_counts_from_its_own_sending_where_the_answer_is_new() -> None:
    repeated, _ = repeated_and_answered(1_050_005)
    assert repeated.reply is not None
    assert repeated.reply.sent_monotonic_ms == 50_000
