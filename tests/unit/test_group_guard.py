"""Which process groups a guard kills at the end."""

import pytest

from workers.group_guard import left


@pytest.mark.parametrize(
    ("lines", "killed"),
    [
        ([], set()),
        ([b"+5\n", b"+7\n"], {5, 7}),
        ([b"+5\n", b"+7\n", b"-5\n"], {7}),
        ([b"+5\n", b"-5\n", b"+5\n"], {5}),
        ([b"-5\n"], set()),
        ([b"+71\n", b"+7"], {71}),
    ],
)
def test_what_was_started_and_has_not_ended_is_killed(lines: list[bytes], killed: set[int]) -> None:
    assert left(lines) == killed
