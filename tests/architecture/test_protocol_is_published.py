"""What other languages read about the protocol is what the code takes and sends."""

import json
import re
from typing import Any

import pytest

from broker import protocol
from broker.messages import KINDS, Envelope
from broker.parsing import parse
from broker.slots import SLOTS_MAX
from tests.architecture.source import ROOT

PUBLISHED = {"request.schema.json": protocol.request_schema, "reply.schema.json": protocol.reply_schema}


def read_me() -> str:
    return (ROOT / "docs" / "protocol" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_schema_is_current(name: str) -> None:
    published = (ROOT / "docs" / "protocol" / name).read_text(encoding="utf-8")
    assert published == PUBLISHED[name](), f"regenerate it: python -m tests.architecture.publish ({name})"


def test_every_operation_stands_in_the_table_beside_its_queue() -> None:
    rows = {line.split("`")[1]: line for line in read_me().splitlines() if line.startswith("| `broker:in:")}
    kinds = [kind for base in Envelope.__subclasses__() for kind in base.__subclasses__()]
    assert kinds
    told = {kind.model_fields["op"].default: rows[f"broker:in:{kind.queue_name}"] for kind in kinds}
    assert [op for op, row in told.items() if f"`{op}`" not in row] == []


def test_the_example_of_an_envelope_is_one() -> None:
    [envelope] = re.findall(r"^RPUSH \S+ '(.+?)'$", read_me(), re.DOTALL | re.MULTILINE)
    assert parse(envelope).op == "claim"


def test_the_example_of_a_life_of_a_job_is_made_of_requests() -> None:
    block = read_me().split("### A job, from claim to end")[1].split("```")[1]
    told = [line.split(" ", 1) for line in block.strip().splitlines()]
    assert [op for op, _ in told][:3] == ["register_factory", "claim", "renew"]
    for op, rest in told:
        body, _ = json.JSONDecoder().raw_decode(rest)
        names = {"request_id": "r", "factory_id": "f", "incarnation": "i", "instance": "x"}
        assert parse(json.dumps({"op": op, **names, "body": body})).op == op


@pytest.fixture(scope="module")
def schema() -> Any:
    """What other languages are given, by the names of messages and bodies."""
    return json.loads(protocol.request_schema())["$defs"]


def test_a_request_without_an_operation_is_none_for_the_schema_either(schema: Any) -> None:
    assert [kind.__name__ for kind in KINDS.values() if "op" not in schema[kind.__name__]["required"]] == []


def test_a_preference_that_is_no_requirement_is_none_for_the_schema_either(schema: Any) -> None:
    assert schema["SubmitBody"]["properties"]["prefers"]["additionalProperties"] is False


def test_the_schema_tells_in_words_what_it_has_no_rules_for(schema: Any) -> None:
    told = {field: rules.get("description", "") for field, rules in schema["SubmitBody"]["properties"].items()}
    assert "65,536 bytes" in told["payload"]
    assert "4,096 bytes" in told["requires"]
    assert f"{SLOTS_MAX} slots" in told["locks"]
    assert "16,384 bytes" in schema["CompleteBody"]["properties"]["result"]["description"]
    assert "Set by the broker" in schema["ReleaseBody"]["properties"]["unread"]["description"]
