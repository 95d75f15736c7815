"""What other languages read about the protocol is what the code takes and sends."""

import pytest

from broker import protocol
from tests.architecture.source import ROOT

PUBLISHED = {"request.schema.json": protocol.request_schema, "reply.schema.json": protocol.reply_schema}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_schema_is_current(name: str) -> None:
    published = (ROOT / "docs" / "protocol" / name).read_text(encoding="utf-8")
    assert published == PUBLISHED[name](), f"regenerate it: python -m tests.architecture.publish ({name})"
