"""How many HTTP requests each operation makes of Cosmos DB: docs/scaling.md has the table, and this counts it."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from datastore.cosmos import CosmosDatastore
from tests.cosmos.fault_proxy import FaultProxy
from tests.guard.rig import rig
from tests.guard.scenes import SCENES

TABLE = Path(__file__).parents[2] / "docs/scaling.md"
KINDS = {"GET": "read", "POST": "create", "PUT": "replace", "QUERY": "search"}
SEVERAL = 3
PRICES = {"read": 100, "create": 495, "replace": 495}
"""Hundredths of an RU for an item of up to 1 KB, as the provider publishes them. Of a search it publishes none."""


def cells(op: str) -> Sequence[str]:
    """What the table says of an operation: requests of each, those that its batch shares, and RU of each."""
    line = re.search(rf"^\| `{op}` \|([^|]*)\|([^|]*)\|([^|]*)\|$", TABLE.read_text(encoding="utf-8"), re.MULTILINE)
    assert line, f"{TABLE.name} has no row for {op}"
    return line.groups()


def requests_in(cell: str) -> Counter[str]:
    return Counter({kind: int(count) for count, kind in re.findall(r"(\d+) (\w+)", cell)})


@pytest.mark.parametrize("op", SCENES)
def test_the_table_prices_the_requests_of_an_operation_as_the_provider_does(op: str) -> None:
    each, _, charged = cells(op)
    assert sum(PRICES[kind] * count for kind, count in requests_in(each).items()) == round(float(charged) * 100)


@pytest.mark.cosmos
@pytest.mark.parametrize("op", SCENES)
def test_an_operation_makes_the_requests_that_the_table_says(
    monkeypatch: pytest.MonkeyPatch, redis_url: str, cosmos_store: CosmosDatastore, cosmos_proxy: FaultProxy, op: str
) -> None:
    shown = cells(op)
    counts: list[Counter[str]] = []
    with rig(monkeypatch, redis_url, cosmos_store) as worker:
        for size in (1, SEVERAL):
            with worker.standing(op, [f"{op}-{size}-{number}" for number in range(size)], wire="intake") as work:
                cosmos_proxy.take_requests()
                work()
                counts.append(Counter(KINDS[method] for method, _ in cosmos_proxy.take_requests()))
    one, several = counts
    each = Counter({kind: (several[kind] - one[kind]) // (SEVERAL - 1) for kind in several})
    assert (+each, one - each) == (requests_in(shown[0]), requests_in(shown[1]))
