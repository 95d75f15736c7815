"""The requests whose cost is counted, and what has to be there before they are sent."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from broker.messages import Request
from tests.caller import Caller, Reply

Serve: TypeAlias = Callable[[], None]
"""Lets the worker answer all that was sent; nothing of it is counted."""
Scene: TypeAlias = Callable[[Caller, Serve, Sequence[str]], list[Request]]
"""Prepares jobs of these names, and makes one request for each."""


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


SCENES: dict[str, Scene] = {
    "submit": submit,
    "claim": claim,
    "claim_next": claim_next,
    "renew": renew,
    "renew_many": renew_many,
    "complete": complete,
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
