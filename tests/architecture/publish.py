"""Writes the protocol's schemas to `docs/protocol/`: `python -m tests.architecture.publish`."""

from tests.architecture.source import ROOT
from tests.architecture.test_protocol_is_published import PUBLISHED

if __name__ == "__main__":
    for name, schema in PUBLISHED.items():
        (ROOT / "docs" / "protocol" / name).write_text(schema(), encoding="utf-8")
