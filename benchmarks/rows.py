"""Every row there is, and those of the two plans."""

from benchmarks.bars import MANY, ONE, SOME
from benchmarks.ceilings.rows import LUA, PING
from benchmarks.ours.rows import MEMORY_INTAKE, MEMORY_MIXED, MEMORY_RQ, SQLITE_1, SQLITE_2, SQLITE_MIXED
from benchmarks.plan import Plan, Row
from benchmarks.special import conflicts
from benchmarks.stock.rows import RQ_CLIENT, STOCK_RQ

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
        Row(MEMORY_INTAKE, (ONE, SOME, MANY)),
        Row(SQLITE_1, (ONE, SOME, MANY)),
        Row(SQLITE_2, (ONE, SOME, MANY)),
        Row(RQ_CLIENT, (MANY,)),
        Row(MEMORY_MIXED, (MANY,)),
        Row(SQLITE_MIXED, (MANY,)),
        Row(conflicts.CONFLICTS, (conflicts.OUTSTANDING,)),
    ),
    rounds=5,
    warm_s=1.0,
    window_s=5.0,
)
