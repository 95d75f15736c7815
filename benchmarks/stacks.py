"""Stacks of a worker that were seen, and what they say: the share of each step of a request, and of each function."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Stack: TypeAlias = tuple[str, ...]
"""Calls, outermost first, each as `module:function`."""

STEPS: Mapping[str, tuple[str, ...]] = {
    "speak with Redis": ("workers.taking", "workers.entries", "workers.lean_redis", "redis."),
    "validate": ("workers.admission", "broker.door", "broker.parsing", "broker.messages"),
    "store": ("datastore.", "broker.repository", "broker.documents"),
    "rules": ("broker.granting", "broker.claiming", "broker.settle", "broker.coordinator", "broker.renewing"),
    "answer and tell": ("broker.aftermath", "broker.answers", "broker.index", "workers.finishing"),
    "settle a batch": ("broker.batch", "broker.side_by_side"),
}
"""Which modules are which step of a request. A call belongs to the innermost module that is one."""
REST = "the rest"


def write(path: Path, seen: Mapping[Stack, int]) -> None:
    """Keep them, a line each."""
    lines = [f"{';'.join(stack)} {count}\n" for stack, count in sorted(seen.items())]
    path.write_text("".join(lines), encoding="utf-8")


def read(path: Path) -> Counter[Stack]:
    """What was kept."""
    lines = (line.rsplit(" ", 1) for line in path.read_text(encoding="utf-8").splitlines())
    return Counter({tuple(stack.split(";")): int(count) for stack, count in lines})


def by_step(seen: Mapping[Stack, int]) -> dict[str, float]:
    """Percent of the worker's CPU time for each step, in the order of a request."""
    counts: Counter[str] = Counter()
    for stack, count in seen.items():
        counts[next((step for call in reversed(stack) if (step := _step(call))), REST)] += count
    return {step: _percent(counts[step], seen) for step in (*STEPS, REST)}


@dataclass(frozen=True, slots=True)
class Share:
    """Of the worker's CPU time, in percent."""

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


def _step(call: str) -> str | None:
    return next((step for step, modules in STEPS.items() if _among(call, modules)), None)


def _among(call: str, modules: Iterable[str]) -> bool:
    module = call.partition(":")[0]
    return any(module == each or (each.endswith(".") and module.startswith(each)) for each in modules)


def _percent(count: int, seen: Mapping[Stack, int]) -> float:
    return 100 * count / max(1, sum(seen.values()))
