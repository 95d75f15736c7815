"""Which leases share a message, when the next one is due, and who is told what of the answer."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from broker.answers import Answer, Reason, Word, plain, wire
from broker.client import BrokerTimeout, Reply, tenure
from broker.client.guard import Wiring
from broker.client.keeper import Keeper
from broker.client.lease import Lease
from broker.client.notices import Notices
from broker.client.renewals import Renewals, leases, tell, timeout_ms
from broker.client.reply import parse_reply
from broker.client.steps import drive
from broker.client.tenure import RETRY_SHARE
from broker.clock import monotonic_ms
from broker.entropy import SystemEntropy
from broker.lease_bodies import RENEW_MAX
from broker.replies import encode
from tests.processes import wait_for
from tests.unit.test_call import grant, reply

TTL_MS = 60_000
INTERVAL_MS = TTL_MS // 3


class Bench:
    """Leases that are kept, and a monotonic clock in the test's hand."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.renewals = Renewals()
        self.lost: list[str] = []
        self.keeper: Keeper = Threadless(
            lambda: pytest.fail("nothing is sent here"),
            notices=Notices(),
            entropy=SystemEntropy(),
            steady_ms=lambda: self.now_ms,
        )

    def hold(self, job_id: str, *, ttl_ms: int = TTL_MS, kind: type[Lease] = Lease) -> Lease:
        """A lease granted now, and kept from now on."""
        granted = grant(job_id=job_id, sent_ms=self.now_ms, ttl_ms=ttl_ms, remaining_ms=ttl_ms)
        lease = kind(
            Wiring(
                operations=None,  # type: ignore[arg-type]  # nothing is asked
                keeper=self.keeper,
                claim=granted,
                on_lost=lambda reason: self.lost.append(f"{job_id}: {reason}"),
                on_cancel=None,
                entropy=SystemEntropy(),
                steady_ms=lambda: self.now_ms,
            )
        )
        drive(lease._entering())
        self.renewals.keep(lease)
        return lease

    def pace(self, ttl_ms: int = TTL_MS) -> int:
        return min(3_000, ttl_ms // 6).bit_length()

    def round(self) -> list[str]:
        """What the next message carries; it is answered at once."""
        due_ms = self.renewals.due_ms(self.pace())
        assert due_ms is not None
        self.now_ms = max(self.now_ms, due_ms)
        guards = self.renewals.next_round(self.pace(), self.now_ms)
        tell(guards, answered(guards, sent_ms=self.now_ms), jitter=0.5)
        self.renewals.landed(guards)
        return [guard.job_id for guard in guards]


class Threadless(Keeper):
    """Starts no threads: the test is the one that renews."""

    def keep(self, guard: Any) -> None:
        pass


def answered(
    guards: Sequence[Any], *, sent_ms: int, each: Answer | None = None, but: dict[str, Answer] | None = None
) -> Reply:
    """The broker's answer to a round: every lease renewed, unless told otherwise."""
    renewed = each or Answer(Word.RENEWED, body={"ttl_ms": TTL_MS, "directives": []})
    results = [plain((but or {}).get(guard.job_id, renewed)) for guard in guards]
    text = encode(wire(Answer(Word.OK, body={"results": results}), request_id="r", now_ms=0))
    return parse_reply(text).sent_at(sent_ms)


def test_leases_granted_at_different_moments_soon_share_one_message_and_one_interval() -> None:
    bench = Bench()
    for number in range(20):
        bench.hold(f"job-{number}")
        bench.now_ms += 700
    assert {*bench.round(), *bench.round()} == {f"job-{number}" for number in range(20)}
    began_ms = bench.now_ms
    for _ in range(10):
        assert len(bench.round()) == 20
    assert bench.now_ms == began_ms + 10 * INTERVAL_MS


@pytest.mark.parametrize("apart_ms", [1, INTERVAL_MS // 3, INTERVAL_MS // 2, INTERVAL_MS * 2 // 3, INTERVAL_MS - 1])
def test_two_leases_that_were_renewed_apart_are_renewed_together_after_one_interval(apart_ms: int) -> None:
    bench = Bench()
    one = bench.hold("one")
    bench.round()
    bench.now_ms += apart_ms
    other = bench.hold("other")
    other.tenure.renewal_due_ms = bench.now_ms + INTERVAL_MS
    for _ in range(2):
        bench.round()
    assert one.tenure.renewal_due_ms == other.tenure.renewal_due_ms


def test_starts_at_any_moment_cost_at_most_two_messages_an_interval() -> None:
    bench = Bench()
    messages = 0
    for number in range(300):  # one each second, for five minutes
        bench.hold(f"job-{number}")
        while (due_ms := bench.renewals.due_ms(bench.pace())) is not None and due_ms <= bench.now_ms:
            bench.round()
            messages += 1
        bench.now_ms += 1_000
    assert messages <= 300_000 / INTERVAL_MS * 2
    assert bench.lost == []


def test_a_lease_that_is_to_hurry_is_renewed_now_and_again_if_it_was_on_its_way() -> None:
    bench = Bench()
    lease = bench.hold("j")
    bench.renewals.hurry(lease)
    assert bench.renewals.next_round(bench.pace(), bench.now_ms) == [lease]
    bench.renewals.hurry(lease)
    assert bench.renewals.on_its_way(lease)
    assert bench.renewals.next_round(bench.pace(), bench.now_ms) == (), "never twice at once"
    bench.renewals.landed([lease])
    assert bench.renewals.next_round(bench.pace(), bench.now_ms) == [lease]


def test_a_short_lease_does_not_wait_for_the_answer_to_long_ones() -> None:
    bench = Bench()
    long, short = bench.hold("long"), bench.hold("short", ttl_ms=1_000)
    bench.now_ms = TTL_MS // 6
    assert bench.renewals.next_round(bench.pace(), bench.now_ms) == [long]
    assert bench.renewals.next_round(bench.pace(1_000), bench.now_ms) == [short]
    assert (timeout_ms([long]), timeout_ms([short])) == (3_000, 166)


def test_a_message_carries_no_more_than_it_may_and_the_most_urgent_first() -> None:
    bench = Bench()
    for number in range(RENEW_MAX + 1):
        bench.hold(f"job-{number:03}")
        bench.now_ms += 1
    bench.now_ms = INTERVAL_MS
    found = bench.renewals.next_round(bench.pace(), bench.now_ms)
    assert [lease["job_id"] for lease in leases(found)] == [f"job-{number:03}" for number in range(RENEW_MAX)]
    assert len(bench.renewals.next_round(bench.pace(), bench.now_ms)) == 1


def test_each_is_told_its_own_answer_and_one_loss_leaves_the_others_alone() -> None:
    bench = Bench()
    guards = [bench.hold(job) for job in ("a", "b", "c")]
    bench.now_ms = 500
    lost = {"b": Answer(Word.LEASE_LOST, Reason.SUPERSEDED), "c": Answer(Word.THROTTLED, Reason.STORE)}
    tell(guards, answered(guards, sent_ms=400, but=lost), jitter=0.5)
    assert bench.lost == ["b: superseded"]
    assert [guard.tenure.deadline_ms for guard in guards] == [400 + 54_000, 54_000, 54_000], "counted from the sending"
    assert guards[2].tenure.renewal_due_ms == bench.now_ms + 1_000, "asked again after the broker's pause"


@pytest.mark.parametrize(
    "answer",
    [
        BrokerTimeout("no answer", request_id="r"),
        reply(Answer(Word.THROTTLED, Reason.STORE)),
        reply(Answer(Word.OUTCOME_UNKNOWN)),
        reply(Answer(Word.INVALID, Reason.STORE)),
        reply(Answer(Word.INVALID, Reason.CORRUPT)),
        reply(Answer(Word.REQUEST_EXPIRED)),
        reply(Answer(Word.OK, body={"results": [{"answer": "a later version's word", "reason": None, "retry": "no"}]})),
        reply(Answer(Word.OK, body={"results": []})),
        *[
            reply(Answer(Word.OK, body={"results": [plain(Answer(Word.RENEWED, body=body))] * 2}))
            for body in ({}, {"ttl_ms": "long"}, {"ttl_ms": 600_000, "directives": None})
        ],
    ],
)
def test_an_answer_that_says_nothing_of_the_leases_is_asked_for_again_and_extends_nothing(answer: Any) -> None:
    bench = Bench()
    guards = [bench.hold(job) for job in ("a", "b")]
    tell(guards, answer, jitter=0.5)
    assert bench.lost == []
    assert {guard.tenure.deadline_ms for guard in guards} == {54_000}
    assert all(guard.tenure.renewal_due_ms <= TTL_MS // 10 for guard in guards)


def test_a_job_that_can_not_be_read_is_held_until_the_deadline_and_on_once_it_can_be() -> None:
    bench = Bench()
    mended, lasting = bench.hold("mended"), bench.hold("lasting")
    unreadable = Answer(Word.INVALID, Reason.CORRUPT)
    tell([mended, lasting], answered([mended, lasting], sent_ms=0, each=unreadable), jitter=0.5)
    bench.now_ms = 53_000
    tell([mended, lasting], answered([mended, lasting], sent_ms=bench.now_ms, but={"lasting": unreadable}), jitter=0.5)
    mended.check()
    lasting.check()
    bench.now_ms = 54_000
    assert bench.renewals.overdue(bench.now_ms) == [lasting]


@pytest.mark.parametrize("reason", [Reason.MALFORMED, Reason.EPOCH_FROM_THE_FUTURE])
def test_a_renewal_that_is_wrong_in_itself_ends_the_lease_at_once(reason: Reason) -> None:
    bench = Bench()
    guards = [bench.hold("a")]
    tell(guards, answered(guards, sent_ms=0, each=Answer(Word.INVALID, reason)), jitter=0.5)
    assert bench.lost == [f"a: {reason}"]


@pytest.mark.parametrize("reason", [Reason.STORE, Reason.CORRUPT])
def test_a_holder_that_takes_invalid_for_a_loss_whatever_the_reason_is_found_out(
    monkeypatch: pytest.MonkeyPatch, reason: Reason
) -> None:
    monkeypatch.setattr(tenure, "SAYS_NOTHING", frozenset())
    bench = Bench()
    guards = [bench.hold("a")]
    tell(guards, answered(guards, sent_ms=0, each=Answer(Word.INVALID, reason)), jitter=0.5)
    assert bench.lost == [f"a: {reason}"], "a lease that stands was dropped"


def test_an_answer_for_one_lease_that_makes_no_sense_takes_nothing_from_the_others() -> None:
    bench = Bench()
    guards = [bench.hold(job) for job in ("a", "b", "c")]
    tell(guards, answered(guards, sent_ms=400, but={"b": Answer(Word.RENEWED)}), jitter=0.5)
    assert bench.lost == []
    assert [guard.tenure.deadline_ms for guard in guards] == [400 + 54_000, 54_000, 400 + 54_000]


def test_a_message_that_is_refused_for_good_ends_every_lease_in_it_once() -> None:
    bench = Bench()
    guards = [bench.hold(job) for job in ("a", "b")]
    for _ in range(2):
        tell(guards, reply(Answer(Word.UNAUTHORIZED)), jitter=0.5)
    assert bench.lost == ["a: unauthorized", "b: unauthorized"]


def test_a_lease_is_over_at_its_own_deadline_whoever_else_is_renewed() -> None:
    bench = Bench()
    stale = bench.hold("stale")
    bench.now_ms = 1_000
    bench.hold("fresh")
    assert bench.renewals.deadline_ms() == 54_000
    assert bench.renewals.overdue(53_999) == []
    assert bench.renewals.overdue(54_000) == [stale]
    assert bench.renewals.overdue(54_000) == [], "whoever watches would be busy with it for good"
    assert bench.renewals.deadline_ms() == 55_000


class Stumbling:
    """A line that breaks at its first message, and answers every other."""

    def __init__(self) -> None:
        self.asked = 0

    def renew_many(self, carried: Sequence[Any], *, timeout_ms: int) -> Reply:
        self.asked += 1
        if self.asked == 1:
            raise RuntimeError(f"scripted: {len(carried)} leases, {timeout_ms} ms")
        results = [plain(Answer(Word.RENEWED, body={"ttl_ms": 600, "directives": []})) for _ in carried]
        text = encode(wire(Answer(Word.OK, body={"results": results}), request_id="r", now_ms=0))
        return parse_reply(text).sent_at(monotonic_ms())

    def close(self) -> None:
        pass


def test_a_mistake_in_one_round_ends_no_renewals() -> None:
    bench, line = Bench(), Stumbling()
    keeper = Keeper(lambda: line, notices=Notices(), entropy=SystemEntropy(), steady_ms=monotonic_ms)  # type: ignore[arg-type,return-value]  # what a keeper needs of a line
    bench.now_ms = monotonic_ms()
    lease = bench.hold("j", ttl_ms=60_000)
    keeper.keep(lease)
    lease.tenure.renewal_due_ms = 0
    keeper._hurry(lease)
    wait_for(lambda: line.asked >= 2, "it is asked again")
    keeper.let_go(lease)
    keeper.close()
    assert bench.lost == []


class Mute(Lease):
    """A lease of which nothing can be reported, as where no thread can be had."""

    def _report(self, callback: Callable[[], None]) -> None:  # noqa: ARG002
        raise RuntimeError("can't start new thread")


def test_a_loss_that_can_not_be_reported_takes_no_answer_from_the_others() -> None:
    bench = Bench()
    guards = [bench.hold("a", kind=Mute), bench.hold("b")]
    tell(guards, answered(guards, sent_ms=400, but={"a": Answer(Word.LEASE_LOST, Reason.SUPERSEDED)}), jitter=0.5)
    assert guards[0].lost.is_set()
    assert guards[1].tenure.deadline_ms == 400 + 54_000


def test_a_loss_that_can_not_be_reported_ends_not_the_watch_over_the_others() -> None:
    bench, line = Bench(), Stumbling()
    bench.keeper = Keeper(lambda: line, notices=Notices(), entropy=SystemEntropy(), steady_ms=monotonic_ms)  # type: ignore[arg-type,return-value]  # what a keeper needs of a line
    bench.now_ms = monotonic_ms()
    for lease in (bench.hold("a", kind=Mute), bench.hold("b")):
        with bench.keeper._changed:  # not in a hurry: a renewal would be answered, and the lease extended
            lease.tenure.deadline_ms = 0
            bench.keeper._changed.notify_all()
        wait_for(lease.lost.is_set, f"{lease.job_id} is lost at its deadline")
    bench.keeper.close()


@pytest.mark.parametrize("ttl_ms", [-7, 0, 10**13, 7 * 10**400])
def test_an_extension_that_no_clock_can_tell_or_that_is_none_extends_nothing(ttl_ms: int) -> None:
    bench = Bench()
    guards = [bench.hold("a"), bench.hold("b")]
    text = encode(wire(Answer(Word.OK, body={"results": [plain(Answer(Word.RENEWED, body={"ttl_ms": 7}))] * 2}),
                       request_id="r", now_ms=0))  # fmt: skip
    tell(guards, parse_reply(text.replace(b":7", b":" + str(ttl_ms).encode())), jitter=0.5)
    assert [guard.tenure.deadline_ms for guard in guards] == [54_000, 54_000]
    assert [guard.tenure.renewal_due_ms for guard in guards] == [bench.now_ms + TTL_MS // RETRY_SHARE] * 2
