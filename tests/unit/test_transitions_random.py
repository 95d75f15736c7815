"""Random lives of one job: whatever comes in whatever order, the invariants of design §2 hold after each step."""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker import transitions
from broker.documents import RECENT_REQUESTS_MAX, Job, State
from broker.fence import Fence
from broker.transitions import Claimant, Decision, Replay, Rules, Write
from tests.unit.jobs import NOW, after, stored

RULES = Rules(ttl_ms=10_000, skew_ms=500, cancel_grace_ms=3_000, backoff_base_ms=1_000, backoff_max_ms=8_000)
FENCED = ("renew", "complete", "fail", "fail_final", "release")
OPERATOR = ("cancel", "redrive", "revoke", "revoke_hold", "hold", "lift")
TIMED = ("reap", "enforce_cancel", "time_out", "due", "unblock")
FACTORIES = ("f1", "f2", "f3")

STEPS = st.lists(
    st.tuples(
        st.sampled_from(("claim", "claim", "claim", *FENCED, *OPERATOR, *TIMED)),
        st.sampled_from((0, 0, 1, 200, 4_000, 11_000)),  # time that passes before it
        st.integers(min_value=0, max_value=63),  # which factory, which of the leases ever granted, which old request
    ),
    min_size=15,
    max_size=60,
)
SETTINGS = settings(
    max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


class Life:
    """One job, all the leases it ever granted, and every request that took effect."""

    def __init__(self, **fields: Any) -> None:
        body = {"kind": "job", "queue": "default", "state": "ready", "max_failures": 4, "max_expiries": 4, **fields}
        self.job = stored(body, rev=1)
        self.now_ms = NOW
        self.grants: list[Fence] = []
        self.requests = 0
        self.effects: list[Callable[[], Decision]] = []

    def step(self, event: str, ms: int, pick: int) -> None:
        """Let time pass, send one event, carry the decision out, and check everything."""
        self.now_ms += ms
        self.requests += 1
        request_id = f"r{self.requests}"
        decide = self._decision(event, request_id, pick)
        before, decision = self.job, decide()
        self.job = after(before, decision)  # raises where I2 breaks
        self._check_step(before, decision, event, pick)
        if isinstance(decision, Write) and event not in ("renew", *TIMED):
            again = decide()
            assert not isinstance(again, Write), f"{event} took effect twice"
            if decision.answer.good:  # else it wrote down that a lease had died, and was refused
                assert isinstance(again, Replay)
                self.effects.append(decide)

    def _decision(self, event: str, request_id: str, pick: int) -> Callable[[], Decision]:
        now_ms = self.now_ms
        if event == "claim":
            who = Claimant(FACTORIES[pick % 3], "i", request_id, f"{self.requests:032x}")
            return lambda: transitions.claim(self.job, who, now_ms=now_ms, rules=RULES)
        if event in FENCED:
            caller = self._caller(request_id, pick)
            return lambda: self._fenced(event, caller, now_ms)
        return lambda: self._other(event, request_id, now_ms)

    def _caller(self, request_id: str, pick: int) -> Fence:
        """A holder, past or present; or an impostor with one thing wrong."""
        if not self.grants:
            return Fence("f1", 1, "0" * 32, request_id)
        # Every other time the latest: otherwise the job's own holder would hardly ever get a word in.
        own = self.grants[-1 if pick % 2 else pick % len(self.grants)]
        wrong: dict[str, Any] = ({}, {}, {}, {"token": "f" * 32}, {"factory_id": "thief"}, {"epoch": 99})[pick % 6]
        fields: dict[str, Any] = {"factory_id": own.factory_id, "epoch": own.epoch, "token": own.token, **wrong}
        return Fence(request_id=request_id, **fields)

    def _fenced(self, event: str, caller: Fence, now_ms: int) -> Decision:
        job = self.job
        match event:
            case "renew":
                return transitions.renew(job, caller, now_ms=now_ms)
            case "complete":
                return transitions.complete(job, caller, now_ms=now_ms, result=None)
            case "release":
                return transitions.release(job, caller, now_ms=now_ms)
            case _:
                return transitions.fail(
                    job,
                    caller,
                    now_ms=now_ms,
                    rules=RULES,
                    error="",
                    result=None,
                    retryable=event == "fail",
                    jitter=0.5,
                )

    def _other(self, event: str, request_id: str, now_ms: int) -> Decision:
        job = self.job
        operator: dict[str, Callable[[], Decision]] = {
            "cancel": lambda: transitions.cancel(
                job, request_id=request_id, by="f", now_ms=now_ms, rules=RULES, reason=None
            ),
            "redrive": lambda: transitions.redrive(job, request_id=request_id, by="f", now_ms=now_ms),
            "revoke": lambda: transitions.revoke(job, request_id=request_id, by="f", now_ms=now_ms, reason=None),
            "revoke_hold": lambda: transitions.revoke(
                job, request_id=request_id, by="f", now_ms=now_ms, reason=None, and_hold=True
            ),
            "hold": lambda: transitions.hold(job, request_id=request_id, by="f", now_ms=now_ms, reason=None),
            "lift": lambda: transitions.lift(job, request_id=request_id, by="f", now_ms=now_ms),
            "reap": lambda: transitions.reap(job, now_ms=now_ms, rules=RULES),
            "enforce_cancel": lambda: transitions.enforce_cancel(job, now_ms=now_ms),
            "time_out": lambda: transitions.time_out(job, now_ms=now_ms),
            "due": lambda: transitions.due(job, now_ms=now_ms),
            "unblock": lambda: transitions.unblock(job, parents={"parent": State.SUCCEEDED}, now_ms=now_ms),
        }
        return operator[event]()

    def _check_step(self, before: Job, decision: Decision, event: str, pick: int) -> None:
        now = self.job
        granted = isinstance(decision, Write) and decision.answer.word == "granted"
        assert now.epoch == before.epoch + granted, "I1: a grant raises the epoch by one, nothing else moves it"
        if granted:
            assert now.lease is not None
            assert before.lease is None or self.now_ms > before.lease.expires_ms + RULES.skew_ms, "taken from a holder"
            self.grants.append(Fence(now.lease.factory_id, now.epoch, now.lease.token, ""))
        if isinstance(decision, Write) and event in FENCED:
            self._check_fence(before, event, pick)
        self._check_counters(before, now)
        assert len(now.recent_requests) <= RECENT_REQUESTS_MAX

    def _check_fence(self, before: Job, event: str, pick: int) -> None:
        """I4: what was written was asked for by the one who held the lease."""
        caller = self._caller("", pick)
        lease = before.lease
        assert lease is not None, f"{event} wrote without a lease"
        assert (caller.epoch, caller.token, caller.factory_id) == (lease.epoch, lease.token, lease.factory_id)
        assert caller.epoch == before.epoch

    def _check_counters(self, before: Job, now: Job) -> None:
        was, has = before.counters.plain(), now.counters.plain()
        raised = [name for name in was if has[name] > was[name]]
        assert sum(has[name] - was[name] for name in raised) <= 1
        if any(has[name] < was[name] for name in was):
            assert before.state in (State.FAILED, State.CANCELLED)
            assert (has["failures"], has["expiries"], has["releases"]) == (0, 0, was["releases"])
        if raised:
            assert before.lease is not None, f"{raised} counted without a lease"
        if now.state is not before.state and before.state.terminal:
            assert now.state is State.READY


@SETTINGS
@given(STEPS, st.sampled_from([{}, {"deadline_ms": NOW + 60_000}, {"state": "blocked", "depends_on": ["parent"]}]))
def test_the_invariants_hold_after_every_step_of_any_life(
    steps: list[tuple[str, int, int]], job: dict[str, Any]
) -> None:
    life = Life(**job)
    for event, ms, pick in steps:
        life.step(event, ms, pick)


@SETTINGS
@given(STEPS)
def test_a_resend_of_anything_that_took_effect_lately_changes_nothing(steps: list[tuple[str, int, int]]) -> None:
    life = Life()
    for event, ms, pick in steps:
        life.step(event, ms, pick)
        # A job remembers eight requests, and one of them may be the claim of a lease that has ended.
        for again in life.effects[-(RECENT_REQUESTS_MAX // 2) :]:
            decision = again()
            assert not isinstance(decision, Write)


@SETTINGS
@given(STEPS)
def test_nothing_an_earlier_holder_sends_changes_a_job(steps: list[tuple[str, int, int]]) -> None:
    life = Life()
    for event, ms, pick in steps:
        life.step(event, ms, pick)
        for old in life.grants[:-1]:
            for op in FENCED:
                stale = Fence(old.factory_id, old.epoch, old.token, "late")
                assert not isinstance(life._fenced(op, stale, life.now_ms), Write)
                stolen = Fence(old.factory_id, life.job.epoch, old.token, "late")
                assert not isinstance(life._fenced(op, stolen, life.now_ms), Write)


def test_the_random_lives_reach_every_state_and_grant_often() -> None:
    states: set[State] = set()
    grants = replays = 0

    @SETTINGS
    @given(STEPS)
    def run(steps: list[tuple[str, int, int]]) -> None:
        nonlocal grants, replays
        life = Life()
        for event, ms, pick in steps:
            life.step(event, ms, pick)
            states.add(life.job.state)
        grants += len(life.grants)
        replays += sum(isinstance(again(), Replay) for again in life.effects)

    run()
    assert states >= set(State) - {State.BLOCKED}
    assert grants > 300, "the lives grant too little: they test nothing"
    assert replays > 300
