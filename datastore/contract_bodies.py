"""The part of the contract about content: what goes in comes out, and nothing that can't be stored goes in."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from datastore.contract_probe import Probe, expect
from datastore.errors import Rejected
from datastore.interface import RESERVED_FIELDS, UNSET, Body, Document

_RICH: Body = {
    "text": "Grüße, 世界 🌍 \u0000\u2028 \"quoted\" \\ / 'x'",
    "clé": "a key outside ASCII",
    "": "an empty key",
    "with.dot and space": 1,
    "whole": 2**53 - 1,
    "negative": -(2**53) + 1,
    "fraction": 0.1,
    "yes": True,
    "no": False,
    "nothing": None,
    "empty": {"object": {}, "array": [], "text": ""},
    "nested": [{"a": [1, [2, {"b": None}]]}],
}
_NOT_JSON: tuple[object, ...] = (
    float("nan"),
    float("inf"),
    {1, 2},
    b"bytes",
    "\ud800",
    {1: "no string"},
    object(),
)
_PAYLOAD_CHARACTERS = 64 * 1024


def a_body_comes_back_as_it_went_in(probe: Probe) -> None:
    stored = probe.new(_RICH)
    expect(dict(stored.body) == _RICH, "create answered another body")
    expect(dict(probe.stored(stored).body) == _RICH, "another body is stored")
    expect(probe.stored(stored).body["yes"] is True, "true came back as a number")
    expect(dict(probe.stored(probe.new({})).body) == {}, "an empty body did not come back empty")


def a_body_that_came_back_can_be_written_again(probe: Probe) -> None:
    # Numbers that an integer is exact for no more: a store may keep them as it likes, and must take them back.
    body: Body = {"vast": [1e17, -1.2345678901234567e20, 2.0**53 + 2, 1e300], "small": 5e-324}
    stored = probe.new(body)
    after = probe.written(probe.stored(stored), {"n": 1})
    expect(dict(after.body) == {**body, "n": 1}, f"a write of another field gave {after.body}")
    copied = probe.new(probe.stored(after).body)
    expect(copied.body == after.body, f"a copy of what came back gave {copied.body}")


def a_payload_of_64_kib_survives(probe: Probe) -> None:
    payload = "ä世" * (_PAYLOAD_CHARACTERS // 5)
    stored = probe.new({"payload": payload})
    expect(probe.stored(stored).body["payload"] == payload, "a payload of 64 KiB did not come back whole")


def unset_removes_a_field_and_none_is_a_value(probe: Probe) -> None:
    stored = probe.new({"lease": {"epoch": 1}, "error": "x", "kept": 1})
    after = probe.written(stored, {"lease": None, "error": UNSET, "never_there": UNSET})
    expect(dict(after.body) == {"lease": None, "kept": 1}, f"UNSET and None gave {after.body}")
    expect(probe.stored(stored) == after, "the answer is not what is stored")


def a_patch_replaces_whole_top_level_fields(probe: Probe) -> None:
    stored = probe.new({"lease": {"epoch": 1, "token": "t"}})
    after = probe.written(stored, {"lease": {"epoch": 2}})
    expect(dict(after.body) == {"lease": {"epoch": 2}}, "a patch was merged into a nested field")


def an_empty_patch_is_a_write(probe: Probe) -> None:
    stored = probe.new({"n": 1})
    after = probe.written(stored, {})
    expect((after.rev, dict(after.body)) == (2, {"n": 1}), "an empty patch did not raise the rev")


def reserved_fields_are_refused(probe: Probe) -> None:
    stored = probe.new({"n": 1})
    for field in sorted(RESERVED_FIELDS):
        _expect_error(ValueError, partial(probe.new, {field: "x"}), f"a body may name {field}")
        _expect_error(ValueError, partial(probe.written, stored, {field: "x"}), f"a patch may name {field}")
    expect(probe.stored(stored) == stored, "a refused patch changed the document")


def what_is_not_json_is_rejected(probe: Probe) -> None:
    stored = probe.new({"n": 1})
    for value in _NOT_JSON:
        body: Any = {"value": [value]}
        _expect_error(Rejected, partial(probe.new, body), f"a body may hold {value!r}")
        _expect_error(Rejected, partial(probe.written, stored, body), f"a patch may hold {value!r}")
    expect(probe.stored(stored) == stored, "a rejected patch changed the document")


def stored_state_is_out_of_a_callers_reach(probe: Probe) -> None:
    passed: Any = {"list": [1], "nested": {"n": 1}}
    stored = probe.new(passed)
    passed["list"].append(2)
    passed["nested"]["n"] = 2
    expect(probe.stored(stored).body["list"] == [1], "a body that was passed in is stored as it is, not by value")
    for document in (stored, probe.stored(stored)):
        _meddle(document)
    expect(dict(probe.stored(stored).body) == {"list": [1], "nested": {"n": 1}}, "a caller changed the store")


def _meddle(document: Document) -> None:
    body: Any = document.body
    changes: tuple[Callable[[], object], ...] = (
        lambda: body.update(n=1),
        lambda: body["list"].append(2),
        lambda: body["nested"].update(n=2),
    )
    for change in changes:
        with suppress(TypeError, AttributeError):  # refusing is as good as not caring
            change()


def _expect_error(kind: type[Exception], call: Callable[[], object], broken: str) -> None:
    try:
        call()
    except kind:
        return
    expect(False, broken)


BODIES = (
    a_body_comes_back_as_it_went_in,
    a_body_that_came_back_can_be_written_again,
    a_payload_of_64_kib_survives,
    unset_removes_a_field_and_none_is_a_value,
    a_patch_replaces_whole_top_level_fields,
    an_empty_patch_is_a_write,
    reserved_fields_are_refused,
    what_is_not_json_is_rejected,
    stored_state_is_out_of_a_callers_reach,
)
