"""Limits that operators set: how many jobs of a queue, a key or a factory run at once, and how often one starts."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from broker.documents import Frozen, Job
from broker.slots import Want, unit_want

LIMITS_MAX = 1_000
"""Limits of one fleet. All of them are one document, which a batch of claims reads once."""
PREFIX = "\x1f"
"""What the key of a limit's slot begins with, and no lock may hold: a lock named `queue:builds` is another thing."""


class Rate(Frozen, frozen=True, kw_only=True):
    """At most `count` grants in any window of `per_ms` milliseconds, ends included on one side only."""

    count: int
    per_ms: int


class Limit(Frozen, frozen=True, kw_only=True):
    """What one limit allows; at least one of the two is set."""

    capacity: int | None = None
    """Leases at once."""
    rate: Rate | None = None
    since_ms: int = 0
    rate_set_ms: int = 0
    """When there came to be a rate: a change of one that stands leaves it. Names what counts its grants."""


Limits: TypeAlias = Mapping[str, Limit]
"""By name: `queue:builds`, `key:gpu`, `factory:mac-1`."""


def queue_limit(queue: str) -> str:
    """The name of the limit of a queue."""
    return f"queue:{queue}"


def factory_limit(factory_id: str) -> str:
    """The name of the limit of a factory."""
    return f"factory:{factory_id}"


def applying(limits: Limits, job: Job, factory_id: str) -> tuple[str, ...]:
    """The limits that a claim of `job` by this factory has to keep, in the order in which they are taken."""
    if not limits:
        return ()
    names = {queue_limit(job.queue), factory_limit(factory_id), *(f"key:{key}" for key in job.concurrency)}
    return tuple(sorted(name for name in names if name in limits))


def units(limits: Limits, names: Sequence[str]) -> tuple[str, ...]:
    """Of these limits, those of which a lease holds a unit."""
    return tuple(name for name in names if limits[name].capacity is not None)


def unit_wants(limits: Limits, names: Sequence[str]) -> tuple[Want, ...]:
    """The slots that hold these units. A limit that is gone by now admits nobody new, and takes units back."""
    return tuple(unit_want(limit_key(name), _capacity(limits, name)) for name in names)


def limit_key(name: str) -> str:
    """The key of a limit's slot."""
    return PREFIX + name


def limit_name(key: str) -> str | None:
    """The limit a slot's key belongs to; None where it is a lock's."""
    return key.removeprefix(PREFIX) if key.startswith(PREFIX) else None


def limited_queue(key: str) -> str | None:
    """The queue whose limit this key is, or None."""
    prefix = PREFIX + "queue:"
    return key.removeprefix(prefix) if key.startswith(prefix) else None


def sets_aside(name: str) -> bool:
    """Whether a job at this limit stands aside. A whole queue, or all of a factory's claims, are told before."""
    return name.startswith("key:")


def _capacity(limits: Limits, name: str) -> int:
    limit = limits.get(name)
    return 0 if limit is None or limit.capacity is None else limit.capacity
