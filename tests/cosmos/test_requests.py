"""How many HTTP requests each operation makes of Cosmos DB: docs/scaling.md has the table, and this counts it."""

import re
from collections import Counter
from pathlib import Path

import pytest

from datastore.cosmos import CosmosDatastore
from tests.cosmos.fault_proxy import FaultProxy
from tests.guard.rig import rig
from tests.guard.scenes import SCENES

pytestmark = pytest.mark.cosmos

TABLE = Path(__file__).parents[2] / "docs/scaling.md"
KINDS = {"GET": "read", "POST": "create", "PUT": "replace", "QUERY": "search"}
SEVERAL = 3


def written(op: str) -> tuple[Counter[str], Counter[str]]:
    """What the table says of an operation: requests of each, and those that its batch shares."""
    line = re.search(rf"^\| `{op}` \|([^|]*)\|([^|]*)\|", TABLE.read_text(encoding="utf-8"), re.MULTILINE)
    assert line, f"{TABLE.name} has no row for {op}"
    each, shared = ({kind: int(count) for count, kind in re.findall(r"(\d+) (\w+)", cell)} for cell in line.groups())
    return Counter(each), Counter(shared)


@pytest.mark.parametrize("op", SCENES)
def test_an_operation_makes_the_requests_that_the_table_says(
    monkeypatch: pytest.MonkeyPatch, redis_url: str, cosmos_store: CosmosDatastore, cosmos_proxy: FaultProxy, op: str
) -> None:
    counts: list[Counter[str]] = []
    with rig(monkeypatch, redis_url, cosmos_store) as worker:
        for size in (1, SEVERAL):
            with worker.standing(op, [f"{op}-{size}-{number}" for number in range(size)], wire="intake"):
                cosmos_proxy.take_requests()
                worker.work()
                counts.append(Counter(KINDS[method] for method, _ in cosmos_proxy.take_requests()))
    one, several = counts
    each = Counter({kind: (several[kind] - one[kind]) // (SEVERAL - 1) for kind in several})
    assert (+each, one - each) == written(op)
