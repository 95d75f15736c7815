"""What other languages read about the protocol is what the code takes and sends."""

import pytest

from broker import protocol
from broker.messages import Envelope
from tests.architecture.source import ROOT

PUBLISHED = {"request.schema.json": protocol.request_schema, "reply.schema.json": protocol.reply_schema}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_schema_is_current(name: str) -> None:
    published = (ROOT / "docs" / "protocol" / name).read_text(encoding="utf-8")
    assert published == PUBLISHED[name](), f"regenerate it: python -m tests.architecture.publish ({name})"


def test_every_operation_stands_in_the_table_beside_its_queue() -> None:
    text = (ROOT / "docs" / "protocol" / "README.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `broker:in:")}
    kinds = [kind for base in Envelope.__subclasses__() for kind in base.__subclasses__()]
    assert kinds
    told = {kind.model_fields["op"].default: rows[f"broker:in:{kind.queue_name}"] for kind in kinds}
    assert [op for op, row in told.items() if f"`{op}`" not in row] == []
