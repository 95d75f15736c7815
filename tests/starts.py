"""Starts of factories, as callers of a broker in the test's own process."""

from typing import Any

from tests.caller import Caller
from tests.in_process import InProcess

DAY_MS = 86_400_000


def start(broker: InProcess, incarnation: str, factory: str = "mac-1") -> Caller:
    """A caller of one start of a factory, which has not registered yet."""
    return Caller(broker.redis, factory, instance=f"{factory}-{incarnation}", incarnation=incarnation)


def ask(broker: InProcess, caller: Caller, op: str, **body: Any) -> Any:
    """Send, serve, and read the reply."""
    request = caller.make(op, **body)
    caller.send(request)
    broker.serve()
    return caller.replies(request, deadline_ms=1_000)[0]


def hold(broker: InProcess, caller: Caller, **body: Any) -> dict[str, Any]:
    """Claim; what the holder proves itself with."""
    reply = ask(broker, caller, "claim", **body)
    assert reply["answer"] == "granted", reply
    return {name: reply["body"][name] for name in ("job_id", "epoch", "token")}


def told(reply: Any) -> tuple[str, str | None]:
    return reply["answer"], reply["reason"]
