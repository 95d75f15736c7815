"""What a filter means to the stores that evaluate it in Python."""

from typing import Any

import pytest

from datastore import AnyOf, AtLeast, AtMost, Document
from datastore.interface import Etag, Filter
from datastore.matching import matcher

JOB: dict[str, Any] = {"state": "leased", "n": 3, "lease": {"factory": "f1"}, "on": True, "text": "abc"}


def met(filter: Filter) -> bool:
    return matcher(filter)(Document("job", "p", 1, Etag("e"), JOB))


@pytest.mark.parametrize(
    "filter",
    [
        {},
        {"partition_key": "p"},
        {"partition_key": "p", "state": "leased"},
        {"lease.factory": "f1", "n": AtMost(3)},
        {"n": AnyOf((1, 3))},
        {"n": AtLeast(3)},
        {"on": True},
    ],
)
def test_a_document_of_which_every_condition_holds_is_met(filter: Filter) -> None:
    assert met(filter)


@pytest.mark.parametrize(
    "filter",
    [
        {"partition_key": "q"},
        {"partition_key": "q", "state": "leased"},
        {"state": "leased", "n": AtMost(2)},
        {"lease.holder": "f1"},
        {"state.factory": "f1"},
        {"text.a": "abc"},
        {"none": AtMost(3)},
        {"on": 1},
        {"on": AtMost(1)},
        {"on": AtLeast(1)},
        {"n": AtLeast(4)},
        {"text": AtLeast(0)},
        {"n": AnyOf((1, 2))},
    ],
)
def test_one_condition_that_does_not_hold_is_enough(filter: Filter) -> None:
    assert not met(filter)
