"""Every reason why a job can't be claimed: how it comes about, and what `explain` has to say of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.controls import factory_doc_id
from tests.in_process import SKEW_MS, TTL_MS, InProcess

Arrange = Callable[[InProcess], None]


@dataclass(frozen=True)
class Case:
    """A job that `arrange` brings into a state, and its explanation."""

    name: str
    arrange: Arrange
    reasons: tuple[str, ...] = ()
    """Empty: nothing stands in its way."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """What the first obstacle says, among other things."""
    says: str = ""
    """Stands in the lines for a person."""
    ask: Mapping[str, Any] = field(default_factory=lambda: {"job_id": "job"})
    refused: bool = True
    """Whether a claim by name is refused for the same reasons, if any; else it has an answer of its own."""


def _submit(**fields: Any) -> Arrange:
    return lambda broker: broker.submit("job", **fields)


def _then(*steps: Arrange) -> Arrange:
    def arrange(broker: InProcess) -> None:
        for step in steps:
            step(broker)

    return arrange


def _ask(op: str, **fields: Any) -> Arrange:
    def arrange(broker: InProcess) -> None:
        [reply] = broker.ask(broker.caller.make(op, **fields))
        assert reply["answer"] in ("ok", "granted", "none_available"), reply

    return arrange


def _end(op: str, *, job: str = "job", **fields: Any) -> Arrange:
    """Claim a job and end it so."""

    def arrange(broker: InProcess) -> None:
        [grant] = broker.ask(broker.caller.make("claim", job_id=job))
        fence = {name: grant["body"][name] for name in ("job_id", "epoch", "token")}
        [reply] = broker.ask(broker.caller.make(op, **fence, **fields))
        assert reply["answer"] == "ok", reply

    return arrange


def _pass(ms: int) -> Arrange:
    def arrange(broker: InProcess) -> None:
        broker.clock.advance(ms)

    return arrange


def _sweep(broker: InProcess) -> None:
    broker.sweep()


def _say(name: str, **body: Any) -> Arrange:
    """What an operator has said, as it is stored."""

    def arrange(broker: InProcess) -> None:
        broker.store.create(name, name, {"kind": "control", **body})

    return arrange


def _parked(broker: InProcess) -> None:
    """A waiting claim that nobody woke: the worker ended between the job's write and its hints."""
    broker.caller.send(broker.caller.make("claim", queue="default", offers=["os=mac"], wait_ms=30_000))
    broker.serve()
    broker.caller.send(broker.caller.make("submit", job_id="job", requires=["os=mac"]))
    broker.settle(broker.take("dead").entries, "dead")


def _unfindable(broker: InProcess) -> None:
    """Ready, and nobody was woken: its hint was lost."""
    [document] = broker.store.find({"kind": "job"}).documents
    broker.redis.delete("broker:ready:default:in:[]")
    assert document.body["state"] == "ready"


_PAUSE = _ask("pause_queue", queue="default", reason="deploy")
_DRAIN = _say(factory_doc_id("factory"), drain={"reason": "upgrade", "since_ms": 5})
_STOPPED = _say(
    factory_doc_id("factory"),
    incarnation="boot-1",
    since_ms=5,
    drain={"reason": "stopped by SIGTERM", "since_ms": 6, "incarnation": "boot-1"},
)
"""As `broker agent` leaves it that was told to stop."""
_CLAIM = _ask("claim", job_id="job")
_HOLD = _then(_submit(), _CLAIM, _ask("revoke", job_id="job", hold=True, reason="bad disk"))
_OTHER = _ask("submit", job_id="other", locks=["repo:web"])

CASES = (
    Case("nobody has asked", _submit(), says="nobody has asked for work of queue default"),
    Case(
        "somebody fits but does not wait",
        _then(_ask("claim", offers=["os=mac"]), _submit(requires=["os=mac"])),
        says="factory fits, and last asked",
    ),
    Case("a waiting claim fits", _parked, says="1 waiting claims fit"),
    Case("its hint was lost", _then(_submit(), _unfindable), says="nothing stands in its way"),
    Case(
        "leased",
        _then(_submit(), _CLAIM, _pass(1_000)),
        ("leased",),
        {"factory_id": "factory", "epoch": 1, "remaining_ms": TTL_MS - 1_000},
        "leased by factory at epoch 1",
        refused=False,  # a conflict
    ),
    Case(
        "leased and asked to stop",
        _then(_submit(), _CLAIM, _ask("cancel", job_id="job", reason="wrong branch")),
        ("leased",),
        {"factory_id": "factory"},
        'asked to stop: "wrong branch", which is enforced in 30 s',
        refused=False,
    ),
    Case(
        "its lease has died",
        _then(_submit(), _CLAIM, _pass(TTL_MS + SKEW_MS + 1)),
        says="the lease of factory has died",
    ),
    Case(
        "its last lease has died",
        _then(_submit(max_expiries=1), _CLAIM, _pass(TTL_MS + SKEW_MS + 1)),
        ("terminal",),
        {"state": "failed"},
        "over: failed",
    ),
    Case(
        "blocked by a running parent",
        _then(_ask("submit", job_id="parent"), _ask("claim", job_id="parent"), _submit(depends_on=["parent"])),
        ("blocked",),
        {"depends_on": ["parent"]},
        "waits for parent (leased on factory, for another 1 min 0 s)",
    ),
    Case(
        "blocked by a failed parent",
        _then(
            _ask("submit", job_id="parent"),
            _end("fail", job="parent", error="x", retryable=False),
            _submit(depends_on=["parent"]),
        ),
        ("blocked",),
        {},
        "broker redrive parent",
    ),
    Case(
        "blocked by a parent that nobody submitted",
        _submit(depends_on=["nowhere"]),
        ("blocked",),
        {},
        "waits for nowhere (missing)",
    ),
    Case(
        "not due",
        lambda broker: broker.submit("job", not_before_ms=broker.clock.now_ms() + 90_000),
        ("scheduled",),
        {},
        "in 1 min 30 s",
    ),
    Case(
        "tried again after a pause",
        _then(_submit(max_failures=3), _end("fail", error="no disk")),
        ("scheduled",),
        {},
        "not due before",
    ),
    Case(
        "held while it waited",
        _then(_submit(), _ask("hold", job_id="job", reason="not yet")),
        ("held",),
        {"why": "not yet"},
        "lift the hold: broker lift job",
    ),
    Case(
        "its queue's limit is reached",
        _then(
            _ask("set_limit", limit="queue:default", capacity=1),
            _ask("submit", job_id="other"),
            _ask("claim", job_id="other"),
            _submit(),
        ),
        ("quota",),
        {"limit": "queue:default", "capacity": 1, "used": 1},
        "limit queue:default is reached: 1 of 1 in use by job other on factory",
    ),
    Case(
        "a key's limit is reached",
        _then(
            _ask("set_limit", limit="key:gpu", capacity=1),
            _ask("submit", job_id="other", concurrency=["gpu"]),
            _ask("claim", job_id="other"),
            _submit(concurrency=["gpu"]),
        ),
        ("quota",),
        {"limit": "key:gpu"},
        "in use by job other on factory",
    ),
    Case(
        "a factory's limit is reached",
        _then(
            _ask("set_limit", limit="factory:factory", capacity=1),
            _ask("submit", job_id="other"),
            _ask("claim", job_id="other"),
            _submit(),
        ),
        ("quota",),
        {"limit": "factory:factory"},
        "limit factory:factory is reached",
        ask={"job_id": "job", "factory": "factory"},
    ),
    Case(
        "a rate is used up",
        _then(
            _ask("set_limit", limit="queue:default", rate={"count": 1, "per_ms": 60_000}),
            _ask("submit", job_id="other"),
            _ask("claim", job_id="other"),
            _submit(),
            _pass(15_000),
        ),
        ("quota",),
        {"limit": "queue:default"},
        "limit queue:default allows 1 starts in 1 min 0 s: the next one in 45 s",
    ),
    Case("held", _HOLD, ("held",), {"why": "bad disk"}, "held by an operator since"),
    Case("its queue is paused", _then(_submit(), _PAUSE), ("paused",), {"queue": "default"}, '"deploy"'),
    Case(
        "starving, and nobody asks",
        _submit(requires=["gpu"]),
        ("requirements",),
        {"missing": ["gpu"], "starving": True, "asked": 0},
        "nobody asks for work of its queue",
    ),
    Case(
        "starving, and somebody comes close",
        _then(
            _ask("claim", offers=["gpu"]),
            _submit(requires=["gpu", "mem_gb>=16"]),
        ),
        ("requirements",),
        {"missing": ["mem_gb>=16"], "starving": True, "asked": 1, "closest": "factory"},
        "none of the 1 factories that ask offers it; factory comes closest",
        refused=False,  # the claimer below offers nothing: its own refusal says more
    ),
    Case(
        "a lock is held",
        _then(_OTHER, _ask("claim", job_id="other"), _submit(locks=["repo:web"])),
        ("lock_busy",),
        {"key": "repo:web"},
        "lock repo:web is taken by job other on factory, for another 1 min 0 s",
    ),
    Case(
        "a lock is held above its path",
        _then(_OTHER, _ask("claim", job_id="other"), _submit(locks=["repo:web/src/app"])),
        ("lock_busy",),
        {"key": "repo:web"},
        "taken by job other",
    ),
    Case(
        "a lock's holder is dead",
        _then(_OTHER, _ask("claim", job_id="other"), _submit(locks=["repo:web"]), _pass(TTL_MS * 2), _sweep),
        says="nothing stands in its way",
    ),
    Case(
        "its deadline is over",
        _then(_submit(timeout_ms=1_000), _pass(1_001)),
        ("terminal",),
        {},
        "its deadline was",
    ),
    Case(
        "timed out",
        _then(_submit(timeout_ms=1_000), _pass(1_001), _sweep),
        ("terminal",),
        {"state": "failed"},
        "over: failed: its deadline was over",
    ),
    Case(
        "failed for good",
        _then(_submit(), _end("fail", error="no disk", retryable=False), _pass(5_000)),
        ("terminal",),
        {"state": "failed", "outcome": "failed", "error": "no disk", "factory_id": "factory"},
        'over: failed on factory, 5.0 s ago: "no disk"',
    ),
    Case("succeeded", _then(_submit(), _end("complete")), ("terminal",), {"state": "succeeded"}, "over: succeeded"),
    Case(
        "cancelled",
        _then(_submit(), _ask("cancel", job_id="job", reason="typo")),
        ("terminal",),
        {"state": "cancelled", "why": "typo"},
        "over: cancelled: typo",
    ),
    Case(
        "several reasons at once",
        _then(_HOLD, _PAUSE),
        ("held", "paused"),
        {"why": "bad disk"},
        '"deploy"',
    ),
    Case(
        "a factory that does not offer it",
        _submit(requires=["gpu"]),
        ("requirements",),
        {"missing": ["gpu"]},
        "requires gpu, which this factory does not offer",
        ask={"job_id": "job", "factory": "factory"},
    ),
    Case(
        "a factory that drains",
        _then(_submit(), _DRAIN),
        ("draining",),
        {"factory_id": "factory", "why": "upgrade"},
        "factory factory drains since",
        ask={"job_id": "job", "factory": "factory"},
        refused=False,  # the answer is `draining`
    ),
    Case(
        "another start of a factory whose last one was told to stop",
        _then(_submit(), _STOPPED),
        says="nothing stands in its way",
        ask={"job_id": "job", "factory": "factory"},
    ),
    Case(
        "who would fit was told to stop",
        _then(_ask("claim", offers=["os=mac"]), _submit(), _STOPPED),
        says="factory would fit, and was told to stop; nobody else asks\n      next: start it anew",
    ),
    Case(
        "only who was told to stop offers what it requires",
        _then(_ask("claim", offers=["os=mac"]), _submit(requires=["os=mac"]), _STOPPED),
        ("requirements",),
        {"missing": ["os=mac"], "starving": True, "draining": [], "stopped": ["factory"]},
        "which only factories offer that were told to stop: factory\n      next: start it anew: broker agent",
        refused=False,  # a claim that offers it is granted
    ),
)
