"""What the stores keep can't be changed in place, is shared rather than copied, and is JSON to the last character."""

from types import MappingProxyType
from typing import Any

import pytest

from datastore import UNSET, Expected, Rejected
from datastore.frozen import (
    DEPTH_MAX,
    FrozenDict,
    FrozenList,
    freeze,
    freeze_patch,
    freeze_patches,
    frozen_fields,
    merge,
)
from datastore.interface import Update

SURROGATE = "\ud800"


def nested(levels: int, wrap: Any, value: Any) -> Any:
    for _ in range(levels):
        value = wrap(value)
    return value


def test_what_is_frozen_is_shared_and_not_copied() -> None:
    frozen = freeze({"lease": {"epoch": 1}, "list": [1, (2,)]})
    assert (type(frozen), type(frozen["list"]), type(frozen["list"][1])) == (FrozenDict, FrozenList, FrozenList)
    again = freeze(
        {"lease": frozen["lease"], "list": frozen["list"], "n": 1, "both": [frozen["lease"], frozen["list"]]}
    )
    assert again["lease"] is frozen["lease"]
    assert again["list"] is frozen["list"]
    assert [value is frozen[name] for name, value in zip(("lease", "list"), again["both"], strict=True)] == [True, True]
    fields, _ = freeze_patch({"n": 2})
    assert merge(frozen, fields, ("list",))["lease"] is frozen["lease"]


@pytest.mark.parametrize(
    "value",
    [
        SURROGATE,
        {SURROGATE: 1},
        {"a": SURROGATE},
        {"a": {SURROGATE: 1}},
        {"a": [SURROGATE]},
        {"a": ({"b": [SURROGATE]},)},
        frozen_fields({"token": SURROGATE}),
        {"lease": frozen_fields({"token": SURROGATE})},
    ],
)
def test_text_that_is_not_unicode_is_refused_wherever_it_stands(value: Any) -> None:
    with pytest.raises(Rejected, match="surrogate"):
        freeze(value)


@pytest.mark.parametrize("innermost", [{}, MappingProxyType({})], ids=["of plain kinds", "with one of a rare kind"])
@pytest.mark.parametrize("wrap", [lambda value: {"a": value}, lambda value: [value], lambda value: (value,)])
def test_a_value_may_be_nested_so_deep_and_no_deeper(wrap: Any, innermost: Any) -> None:
    assert freeze(nested(DEPTH_MAX - 1, wrap, innermost)) is not None
    with pytest.raises(Rejected, match="nested deeper"):
        freeze(nested(DEPTH_MAX, wrap, innermost))


def test_of_several_updates_those_are_looked_at_that_are_not_ready() -> None:
    expected = Expected("etag")
    ready = Update("a", "a", expected, {"lease": frozen_fields({"epoch": 1})}, ready=True)
    other = Update("b", "b", expected, {"lease": {"epoch": 1}, "gone": UNSET})
    (passed, none), (frozen, removed) = freeze_patches([ready, other])
    assert (passed is ready.patch, none) == (True, ())
    assert (type(frozen["lease"]), removed) == (FrozenDict, ("gone",))
    with pytest.raises(Rejected):
        freeze_patches([ready, Update("b", "b", expected, {"lease": {"token": SURROGATE}})])
