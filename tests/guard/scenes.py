"""The requests whose cost is counted, and what has to be there before they are sent."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from broker.messages import Request
from tests.caller import Caller, Reply

Serve: TypeAlias = Callable[[], None]
"""Lets the worker answer all that was sent; nothing of it is counted."""
Scene: TypeAlias = Callable[[Caller, Serve, Sequence[str]], list[Request]]
"""Prepares jobs of these names, and makes one request for each; or none, where the next sweep sees to them."""


def submit(caller: Caller, _serve: Serve, jobs: Sequence[str]) -> list[Request]:
    """New jobs."""
    return [caller.make("submit", job_id=job, payload={"n": 1}) for job in jobs]


def claim(caller: Caller, serve: Serve, jobs: Sequence[str]) -> list[Request]:
    """Ready jobs, each by its id."""
    _answered(caller, serve, submit(caller, serve, jobs))
    return [caller.make("claim", job_id=job) for job in jobs]


def claim_next(caller: Caller, serve: Serve, jobs: Sequence[str]) -> list[Request]:
    """As many ready jobs as claims; whichever comes next."""
    _answered(caller, serve, submit(caller, serve, jobs))
    return [caller.make("claim") for _ in jobs]


def renew(caller: Caller, serve: Serve, jobs: Sequence[str]) -> list[Request]:
    """A renewal of each lease, in a message of its own."""
    return [caller.make("renew", **fence) for fence in _held(caller, serve, jobs)]


def renew_many(caller: Caller, serve: Serve, jobs: Sequence[str]) -> list[Request]:
    """All leases with one message."""
    return [caller.make("renew_many", leases=_held(caller, serve, jobs))]


def complete(caller: Caller, serve: Serve, jobs: Sequence[str]) -> list[Request]:
    """The end of each lease."""
    return [caller.make("complete", result={"n": 1}, **fence) for fence in _held(caller, serve, jobs)]


def fail(caller: Caller, serve: Serve, jobs: Sequence[str]) -> list[Request]:
    """The end of each lease; its job is to be tried again."""
    return [caller.make("fail", error="it broke", **fence) for fence in _held(caller, serve, jobs)]


def release(caller: Caller, serve: Serve, jobs: Sequence[str]) -> list[Request]:
    """Each lease is given back."""
    return [caller.make("release", **fence) for fence in _held(caller, serve, jobs)]


def claim_again(caller: Caller, serve: Serve, jobs: Sequence[str]) -> list[Request]:
    """Jobs that were held before, each by its id."""
    _answered(caller, serve, release(caller, serve, jobs))
    return [caller.make("claim", job_id=job) for job in jobs]


def hand_over(caller: Caller, serve: Serve, jobs: Sequence[str]) -> list[Request]:
    """Each lease is given to another factory."""
    return [caller.make("hand_over", to="heir", **fence) for fence in _held(caller, serve, jobs)]


def progress(caller: Caller, serve: Serve, jobs: Sequence[str]) -> list[Request]:
    """The first report of each run."""
    return [caller.make("progress", progress={"n": 1}, **fence) for fence in _held(caller, serve, jobs)]


def progress_again(caller: Caller, serve: Serve, jobs: Sequence[str]) -> list[Request]:
    """A later report of each run."""
    fences = _held(caller, serve, jobs)
    _answered(caller, serve, [caller.make("progress", progress={"n": 1}, **fence) for fence in fences])
    return [caller.make("progress", progress={"n": 2}, **fence) for fence in fences]


def cancel(caller: Caller, serve: Serve, jobs: Sequence[str]) -> list[Request]:
    """Jobs that wait."""
    _answered(caller, serve, submit(caller, serve, jobs))
    return [caller.make("cancel", job_id=job) for job in jobs]


def cancel_running(caller: Caller, serve: Serve, jobs: Sequence[str]) -> list[Request]:
    """Jobs that are held: their holders are asked to stop."""
    _answered(caller, serve, claim(caller, serve, jobs))
    return [caller.make("cancel", job_id=job) for job in jobs]


def revoke(caller: Caller, serve: Serve, jobs: Sequence[str]) -> list[Request]:
    """Each lease is taken away."""
    _answered(caller, serve, claim(caller, serve, jobs))
    return [caller.make("revoke", job_id=job) for job in jobs]


def sweep(caller: Caller, serve: Serve, jobs: Sequence[str]) -> list[Request]:
    """Held jobs whose holders are never heard of again."""
    _answered(caller, serve, claim(caller, serve, jobs))
    return []


SCENES: dict[str, Scene] = {
    "submit": submit,
    "claim": claim,
    "claim_next": claim_next,
    "renew": renew,
    "renew_many": renew_many,
    "complete": complete,
    "fail": fail,
    "release": release,
    "claim_again": claim_again,
    "hand_over": hand_over,
    "progress": progress,
    "progress_again": progress_again,
    "cancel": cancel,
    "cancel_running": cancel_running,
    "revoke": revoke,
    "sweep": sweep,
}


def _held(caller: Caller, serve: Serve, jobs: Sequence[str]) -> list[dict[str, Any]]:
    granted = _answered(caller, serve, claim(caller, serve, jobs))
    return [{name: reply["body"][name] for name in ("job_id", "epoch", "token")} for reply in granted]


def _answered(caller: Caller, serve: Serve, requests: Sequence[Request]) -> list[Reply]:
    caller.send(*requests)
    serve()
    replies = caller.replies(*requests)
    assert {reply["answer"] for reply in replies} <= {"ok", "granted"}, replies
    return replies
