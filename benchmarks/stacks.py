"""Stacks of a process that were seen, and what they say: the share of each step of a request, and of each function."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Stack: TypeAlias = tuple[str, ...]
"""Calls, outermost first, each as `module:function`."""

Steps: TypeAlias = Mapping[str, tuple[str, ...]]
"""Which modules, packages (`rq.`) or calls (`module:function`) are which step. A stack is of the innermost one's."""

STEPS: Steps = {
    "wait for requests": ("workers.waiters:Waiters.wait",),
    "send": ("redis.connection:AbstractConnection.send_packed_command",),
    "receive": ("redis._parsers.hiredis:_HiredisParser.read_from_socket",),
    "speak with Redis": ("workers.taking", "workers.entries", "workers.lean_redis", "redis."),
    "validate": ("workers.admission", "broker.door", "broker.parsing", "broker.messages"),
    "commit": ("datastore.sqlite_session:Session._commit",),
    "file lock": ("datastore.sqlite_lock",),
    "store": ("datastore.", "broker.repository", "broker.documents"),
    "rules": ("broker.granting", "broker.claiming", "broker.settle", "broker.coordinator", "broker.renewing"),
    "answer and tell": ("broker.aftermath", "broker.answers", "broker.index", "workers.finishing"),
    "settle a batch": ("broker.batch", "broker.side_by_side"),
}
"""Of a worker, in the order of a request."""
CLIENT_STEPS: Steps = {
    "wait for answers": (
        "selectors",
        "broker.client.listener:Listener._collect",
        "broker.client.channel:Channel._wait",
    ),
    "send": (
        "asyncio.selector_events:_SelectorSocketTransport.write",
        "broker.client.channel:Channel.send",
        *STEPS["send"],
    ),
    "receive": STEPS["receive"],
    "rq's client": ("rq.", "rq"),
    "speak with Redis": ("redis.", "broker.client.channel", "broker.client.connection"),
    "the client": ("broker.",),
    "event loop": ("asyncio.",),
    "the load": ("benchmarks.", "__main__"),
}
"""Of whoever asks."""
REST = "the rest"


def write(path: Path, seen: Mapping[Stack, int]) -> None:
    """Keep them, a line each."""
    lines = [f"{';'.join(stack)} {count}\n" for stack, count in sorted(seen.items())]
    path.write_text("".join(lines), encoding="utf-8")


def read(path: Path) -> Counter[Stack]:
    """What was kept."""
    lines = (line.rsplit(" ", 1) for line in path.read_text(encoding="utf-8").splitlines())
    return Counter({tuple(stack.split(";")): int(count) for stack, count in lines})


def by_step(seen: Mapping[Stack, int], steps: Steps = STEPS) -> dict[str, float]:
    """Percent of what was seen for each step."""
    counts: Counter[str] = Counter()
    for stack, count in seen.items():
        counts[next((step for call in reversed(stack) if (step := _step(call, steps))), REST)] += count
    return {step: _percent(counts[step], seen) for step in (*steps, REST)}


@dataclass(frozen=True, slots=True)
class Share:
    """Of all that was seen, in percent."""

    call: str
    own: float
    whole: float
    """With all that it calls."""


def by_function(seen: Mapping[Stack, int]) -> list[Share]:
    """The share of each function, the greatest whole first."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for stack, count in seen.items():
        own[stack[-1]] += count
        for call in set(stack):
            whole[call] += count
    return [Share(call, _percent(own[call], seen), _percent(count, seen)) for call, count in whole.most_common()]


def _step(call: str, steps: Steps) -> str | None:
    return next((step for step, modules in steps.items() if _among(call, modules)), None)


def _among(call: str, modules: Iterable[str]) -> bool:
    module = call.partition(":")[0]
    return any(each in (module, call) or (each.endswith(".") and module.startswith(each)) for each in modules)


def _percent(count: int, seen: Mapping[Stack, int]) -> float:
    return 100 * count / max(1, sum(seen.values()))
