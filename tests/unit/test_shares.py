"""How the jobs that a batch may grant are shared among claims that ask for several."""

import pytest

from broker.gathering import shares


@pytest.mark.parametrize(
    ("asked", "at_most", "had"),
    [
        ([], 8, []),
        ([3], 8, [3]),
        ([9], 8, [8]),
        ([1, 1, 9, 1], 8, [1, 1, 5, 1]),
        ([9, 2, 9], 8, [3, 2, 3]),
        ([9, 9, 9], 8, [2, 3, 3]),
        ([1, 1, 1], 2, [1, 1, 1]),
        ([9, 9, 9], 1, [1, 1, 1]),
        ([9, 9], -5, [1, 1]),
    ],
)
def test_each_has_what_it_asks_for_or_as_much_as_the_others_and_one_in_any_case(
    asked: list[int], at_most: int, had: list[int]
) -> None:
    shared = shares(dict(enumerate(asked)), at_most=at_most)
    assert [shared[position] for position in range(len(asked))] == had
