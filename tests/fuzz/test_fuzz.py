"""A small part of `make fuzz`, and decoders with a hole, which it finds."""

import ast
import json
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.door import OPEN_DOOR
from broker.messages import KINDS, REQUESTS
from broker.parsing import Malformed, parse
from tests.fuzz.campaign import Findings, doors, run, through
from tests.fuzz.inputs import BODIES, inputs

COUNT = 8_000


def test_inputs_are_made_of_every_operation_each_right_at_first() -> None:
    assert set(BODIES) == {op.decode() for op in KINDS}
    who = {"request_id": "r", "factory_id": "f", "incarnation": "i", "instance": "x"}
    for op, body in BODIES.items():
        assert parse(json.dumps({"op": op, **who, "body": body})).op == op


def campaign(read: Callable[[str, bytes], object], count: int = COUNT) -> Findings:
    sign, _ = doors()
    return run(islice(inputs(1, sign), count), read)


@pytest.mark.parametrize("which", [0, 1], ids=["open", "guarded"])
def test_whatever_comes_is_read_or_refused_in_bounded_time_and_memory(which: int) -> None:
    found = campaign(through(doors()[1][which]))
    assert found.wrong == []
    assert found.outcomes["read"] > 200, "nothing was right: the inputs test little"
    assert found.outcomes["Malformed"] > 2_000
    assert found.outcomes["NotOurs"] > 200


def _forgiving(wire: str, data: bytes) -> object:
    """As many a broker: json.loads, then look."""
    return REQUESTS.validate_python(json.loads(data)) if wire == "intake" else through(OPEN_DOOR)(wire, data)


def _talkative(wire: str, data: bytes) -> object:
    try:
        return through(OPEN_DOOR)(wire, data)
    except Malformed as error:
        raise Malformed(f"can't read {data[:400]!r}", sender=error.sender) from error


def _literal(wire: str, data: bytes) -> object:
    if wire == "intake":
        ast.literal_eval(data.decode("latin-1"))
    return through(OPEN_DOOR)(wire, data)


HOLES: Mapping[str, Callable[[str, bytes], object]] = {
    "crash": _forgiving,
    "a token is shown": _talkative,
    "SyntaxError": _literal,
}


@pytest.mark.parametrize("hole", HOLES)
def test_a_decoder_with_a_hole_is_found(hole: str) -> None:
    found = campaign(HOLES[hole], 2_000)
    assert any(hole in wrong for wrong in found.wrong) or (hole == "crash" and found.outcomes["crash"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["v", "op", "request_id", "attempt", "factory_id", "incarnation", "instance", "deadline_ms", "body", "traceparent"]
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=200) | st.dictionaries(FIELDS, JSON).map(lambda value: json.dumps(value).encode()))
def test_what_hypothesis_thinks_of_is_refused_or_read(raw: bytes) -> None:
    try:
        request: Any = parse(raw)
    except Malformed:
        return
    assert parse(request.model_dump_json()) == request
