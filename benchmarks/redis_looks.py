"""Where the CPU time of Redis goes in a window, as far as it tells by itself."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from redis import Redis


class RedisLook(NamedTuple):
    """What one Redis has used so far, in microseconds."""

    user_us: float
    system_us: float
    scripts_us: float
    """By Redis's own clock: where it has to wait for a core in a script, that is in it."""


def look(connection: Redis) -> RedisLook:
    """Ask it."""
    cpu: Mapping[str, Any] = connection.info("cpu")
    commands: Mapping[str, Any] = connection.info("commandstats")
    scripts_us = sum(commands[name]["usec"] for name in ("cmdstat_evalsha", "cmdstat_eval") if name in commands)
    return RedisLook(1e6 * cpu["used_cpu_user"], 1e6 * cpu["used_cpu_sys"], scripts_us)


def shares(looks: Sequence[RedisLook]) -> dict[str, float]:
    """Percent of its CPU time between the first look and the last: in system calls, mostly of sockets, in scripts,
    and in all else, which is to read, carry out and answer the other commands.
    """
    user_us, system_us, scripts_us = (last - first for first, last in zip(looks[0], looks[-1], strict=True))
    scripts_us = min(scripts_us, user_us)
    used_us = max(1.0, user_us + system_us)
    parts = {"system calls": system_us, "scripts": scripts_us, "other commands": user_us - scripts_us}
    return {step: 100 * us / used_us for step, us in parts.items()}
