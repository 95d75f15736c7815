"""Every row there is, and those of the two plans."""

from collections.abc import Mapping, Sequence

from benchmarks import environments, profile
from benchmarks.bars import MANY, ONE, SOME
from benchmarks.ceilings.rows import LUA, PING
from benchmarks.ours.rows import MEMORY_INTAKE, MEMORY_MIXED, MEMORY_RQ, SQLITE_1, SQLITE_2, SQLITE_MIXED
from benchmarks.peers.rows import peer
from benchmarks.plan import Plan, Row
from benchmarks.replay.rows import MEMORY_INTAKE_REPLAYED, MEMORY_RQ_REPLAYED
from benchmarks.rounds import Special
from benchmarks.special import conflicts, curve, disk, idle, renewals, start
from benchmarks.special.kill import KILLED
from benchmarks.stock.rows import RQ_CLIENT, STOCK_RQ

LEVELS = (ONE, SOME, MANY)
SPECIALS: Mapping[str, Special] = {
    "fsync of a page": disk.measure,
    "start of a worker": start.measure,
    "an idle fleet": idle.measure,
    "a million ready jobs": curve.measure,
    **profile.specials(),
}
"""Figures that are no row, in the order they are taken."""
PYTHON_PEERS = tuple(environments.PYTHON_PEERS)
NODE_PEERS = tuple(environments.NODE_PEERS)
PEERS = (*PYTHON_PEERS, *NODE_PEERS)
QUICK_PEERS = ("huey", "bullmq")
"""The best Python peer of the last sweep, and BullMQ, each in the setting its table names first."""

FEW_ROUNDS = 2
"""Of rows that nothing promised is about: what else is worth a look must not cost the bars their rounds."""

QUICK = Plan(
    rows=(
        Row(PING, (ONE,)),
        Row(STOCK_RQ, (MANY,)),
        Row(MEMORY_RQ, (ONE, MANY)),
        Row(MEMORY_INTAKE, (MANY,)),
        Row(SQLITE_1, (MANY,)),
        Row(conflicts.CONFLICTS, (conflicts.OUTSTANDING,)),
    ),
    rounds=3,
    warm_s=0.3,
    window_s=1.5,
    budget_s=165,
)

FULL = Plan(
    rows=(
        Row(PING, (ONE,)),
        Row(LUA, (ONE, MANY), rounds=FEW_ROUNDS),
        Row(STOCK_RQ, (MANY,)),
        Row(STOCK_RQ, (ONE, SOME), rounds=FEW_ROUNDS),
        Row(MEMORY_RQ, (ONE, SOME, MANY)),
        Row(MEMORY_INTAKE, (MANY,)),
        Row(SQLITE_1, (ONE, MANY)),
        Row(SQLITE_2, (MANY,)),
        Row(RQ_CLIENT, (MANY,)),
        Row(MEMORY_MIXED, (MANY,)),
        Row(SQLITE_MIXED, (MANY,)),
        Row(conflicts.CONFLICTS, (conflicts.OUTSTANDING,)),
        Row(renewals.SINGLE, (SOME, MANY)),
        Row(renewals.BATCHED, (SOME,)),
        Row(renewals.CROWDED, (SOME,)),
        Row(KILLED, (MANY,), rounds=1),
        Row(MEMORY_RQ_REPLAYED, (MANY,), rounds=FEW_ROUNDS),
        Row(MEMORY_INTAKE_REPLAYED, (MANY,), rounds=FEW_ROUNDS),
    ),
    rounds=5,
    warm_s=0.7,
    window_s=5.0,
    repeats=2,
)


def by_name(plan: Plan) -> dict[str, Row]:
    """Every row that can be asked for by its name: at all its levels in this plan, else at those in the full one."""
    peers = {name: Row(peer(name), (MANY,)) for name in PEERS}
    return _joined(FULL.rows) | _joined(plan.rows) | peers


def _joined(rows: Sequence[Row]) -> dict[str, Row]:
    """A row that a plan has twice, as some of its levels are for few rounds, once."""
    joined: dict[str, Row] = {}
    for row in rows:
        name = row.contestant.name
        levels = {*row.levels, *joined[name].levels} if name in joined else row.levels
        joined[name] = Row(row.contestant, tuple(sorted(levels)))
    return joined
