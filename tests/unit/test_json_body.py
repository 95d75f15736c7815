"""A stored JSON text reads like the mapping it is the text of, can't be changed through it, and merges by field."""

import json
from typing import Any

import msgspec
import pytest

from datastore.frozen import freeze_patch
from datastore.interface import UNSET
from datastore.json_body import JsonBody, decoded, encode, parsed

BODY: dict[str, Any] = {
    "state": "leased",
    "lease": {"epoch": 3, "limits": ["a"]},
    "none": None,
    "é": 1.5,
    "big": 10**30,
}


class Lease(msgspec.Struct):
    epoch: int
    limits: tuple[str, ...]


class Leased(msgspec.Struct):
    state: str
    lease: Lease


def read(text: str) -> JsonBody:
    """A body that was read, and so looked at first."""
    return JsonBody(text, parsed(text))


def test_it_is_equal_to_what_it_is_the_text_of() -> None:
    body = read(json.dumps(BODY))
    assert body == BODY
    assert dict(body) == BODY
    assert (body.get("state"), body.get("missing"), "none" in body, len(body)) == ("leased", None, True, 5)
    with pytest.raises(KeyError):
        body["missing"]


def test_what_it_gives_can_not_be_changed() -> None:
    lease: Any = JsonBody(encode(BODY))["lease"]
    with pytest.raises(TypeError, match="read-only"):
        lease["epoch"] = 4
    with pytest.raises(TypeError, match="read-only"):
        lease["limits"].append("b")


@pytest.mark.parametrize("whose", [JsonBody, read], ids=["own", "read"])
def test_a_patch_changes_its_fields_and_no_other(whose: Any) -> None:
    fields, removed = freeze_patch({"state": "ready", "lease": None, "new": ["ü"], "none": UNSET, "missing": UNSET})
    merged = JsonBody(encode(whose(encode(BODY)).patched(fields, removed)))
    expected = {**BODY, "state": "ready", "lease": None, "new": ["ü"]}
    del expected["none"]
    assert merged == expected
    assert json.loads(merged.text) == expected
    assert JsonBody(encode(merged.patched({"state": "done"}, ()))) == {**expected, "state": "done"}


def test_it_is_read_as_a_value_like_any_other_body() -> None:
    wanted = Leased("leased", Lease(3, ("a",)))
    assert decoded(JsonBody(encode(BODY)), Leased) == wanted
    assert decoded(BODY, Leased) == wanted
    for body in (JsonBody('{"state":1,"lease":null}'), {"state": 1, "lease": None}):
        with pytest.raises(msgspec.DecodeError):
            decoded(body, Leased)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"a":', '{"a":1} 2', '{"a":NaN}', '{"a":"\\ud800"}', "{'a':1}"])
def test_what_is_no_json_object_is_refused_when_it_is_read(text: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        read(text)


def test_a_text_that_somebody_else_wrote_is_kept_as_it_is() -> None:
    text = '{"b": 1,  "a": [ ]}'
    body = read(text)
    assert (body.text, dict(body)) == (text, {"b": 1, "a": []})


def test_a_text_is_read_as_a_value_without_a_look_at_its_fields() -> None:
    body = JsonBody('{"state": "leased", "lease": {"epoch": 3, "limits": []}, "newer": [1]}')
    assert decoded(body, Leased) == Leased("leased", Lease(3, ()))
    assert body._raw is None
