"""Each key of the broker's in Redis is somebody's: a new one has to be put where it belongs."""

import re
from fnmatch import fnmatchcase

from broker.acl import RedisRole, rules
from tests.architecture.source import modules

WORKERS_ALONE = {"inflight", "dead", "unread", "once", "memory-owner", "in", "turn", "deaths", "nothing"}
"""What workers have in hand. The sweep has no business there, but for the intake of claims."""


def test_every_key_is_either_the_workers_alone_or_among_what_the_sweep_mends() -> None:
    found: set[str] = set()
    for module in modules():
        found |= set(re.findall(r"""["']broker:([a-z]+(?:-[a-z]+)*)""", module.path.read_text(encoding="utf-8")))
    allowed = [key[len("~broker:") :] for key in rules(RedisRole.SWEEP).split() if key.startswith("~broker:")]
    sweeps = {name for name in found if any(fnmatchcase(name, key) or key.startswith(f"{name}:") for key in allowed)}
    assert len(found) > 15
    assert sorted(found - sweeps - WORKERS_ALONE) == [], "say in broker/acl.py that the sweep may touch it, or above"
    assert sorted(sweeps & WORKERS_ALONE) == ["in"]
