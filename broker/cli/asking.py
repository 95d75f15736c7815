"""What every command that asks the broker takes beside its own options: declared once, and handed over as an `Ask`."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from broker.cli import options
from broker.cli.session import Target, connected

if TYPE_CHECKING:
    from broker.client import Client, Reply

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Asks:
    """How a command asks, and which of the shared options it has."""

    has: tuple[str, ...] = ()
    needs_factory: bool = False
    only_reads: bool = False


AS_HOLDER = Asks(("factory", "request_id"), needs_factory=True)
AS_OPERATOR = Asks(("request_id", "factory"))
OF_FACTORY = Asks(("request_id",))
"""The factory is what the command is about."""
LOOKING = Asks(("factory",), only_reads=True)
LOOKING_AT_FACTORY = Asks(only_reads=True)

_SHARED: dict[str, tuple[Any, Any]] = {
    "factory": (options.Factory, None),
    "request_id": (options.RequestId, None),
    "redis": (options.RedisUrl, None),
    "state_dir": (options.StateFolder, None),
    "timeout": (options.Timeout, None),
    "json": (options.Json, False),
}
_EVERYWHERE = ("redis", "state_dir", "timeout", "json")


@dataclass(frozen=True, slots=True)
class Ask:
    """One run of such a command: where it asks, and how it answers."""

    target: Target
    json: bool
    request_id: str | None

    def connected(self, **changed: Any) -> AbstractContextManager["Client"]:
        """A client for the length of a block. `changed`: fields of the target, where the command knows better."""
        return connected(replace(self.target, **changed))

    def finish(
        self, reply: "Reply", *, good: str | Sequence[str], repeat: str | None = None, step: str | None = None
    ) -> int:
        """Show the answer and return its exit status. `good` is what is said of one that had its effect.

        `repeat`: what the command is repeated under, where that is not the reply's own request id. `step`: what to do
        about an answer that is not good, where the command knows better.
        """
        from broker.cli.answers import finish

        return finish(reply, json=self.json, good=good, repeat=repeat, reads=self.target.only_reads, step=step)


def asks(how: Asks) -> Callable[[Callable[Concatenate[Ask, P], int]], Callable[..., int]]:
    """Give a command the shared options behind its own; it gets what they said as its first argument."""

    names = (*how.has, *_EVERYWHERE)

    def decorate(command: Callable[Concatenate[Ask, P], int]) -> Callable[..., int]:
        @wraps(command)
        def run(**given: Any) -> int:
            said = {name: given.pop(name) for name in names}
            target = Target(
                said["redis"],
                said["state_dir"],
                said["timeout"],
                said.get("factory"),
                needs_factory=how.needs_factory,
                only_reads=how.only_reads,
            )
            return command(Ask(target, said["json"], said.get("request_id")), **given)  # type: ignore[call-arg]  # typer's

        own = list(signature(command).parameters.values())[1:]
        shared = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in ((name, _SHARED[name]) for name in names)
        ]
        run.__signature__ = Signature([*own, *shared])  # type: ignore[attr-defined]  # what typer reads
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
        return run

    return decorate
