"""Every row there is, and those of the two plans."""

from benchmarks import environments
from benchmarks.bars import MANY, ONE, SOME
from benchmarks.ceilings.rows import LUA, PING
from benchmarks.ours.rows import MEMORY_INTAKE, MEMORY_MIXED, MEMORY_RQ, SQLITE_1, SQLITE_2, SQLITE_MIXED
from benchmarks.plan import Plan, Row
from benchmarks.special import conflicts
from benchmarks.stock.rows import RQ_CLIENT, STOCK_RQ

LEVELS = (ONE, SOME, MANY)
PYTHON_PEERS = tuple(environments.PYTHON_PEERS)
NODE_PEERS = tuple(environments.NODE_PEERS)
QUICK_PEERS = ("huey", "bullmq")
"""The best Python peer of the last sweep, and BullMQ, each in the setting its table names first."""

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
)

FULL = Plan(
    rows=(
        Row(PING, (ONE,)),
        Row(LUA, (ONE, MANY)),
        Row(STOCK_RQ, (ONE, SOME, MANY)),
        Row(MEMORY_RQ, (ONE, SOME, MANY)),
        Row(MEMORY_INTAKE, (ONE, MANY)),
        Row(SQLITE_1, (ONE, MANY)),
        Row(SQLITE_2, (MANY,)),
        Row(RQ_CLIENT, (MANY,)),
        Row(MEMORY_MIXED, (MANY,)),
        Row(SQLITE_MIXED, (MANY,)),
        Row(conflicts.CONFLICTS, (conflicts.OUTSTANDING,)),
    ),
    rounds=5,
    warm_s=0.7,
    window_s=5.0,
)
