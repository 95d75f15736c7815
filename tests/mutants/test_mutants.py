"""Each mutant of the broker is caught by the tests that are named for it."""

from dataclasses import replace

import pytest

from tests.mutants.catalogue import MUTANTS, Mutant, NotApplied
from tests.mutants.hunt import hunt


def test_every_mutant_is_caught_by_a_test_that_is_named_for_it() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == 9
    survivors = [found for found in hunt(MUTANTS) if found.caught_by is None]
    assert survivors == []


def test_a_mutant_that_no_named_test_notices_has_survived_and_so_has_one_whose_tests_are_gone() -> None:
    [broken] = [mutant for mutant in MUTANTS if mutant.name == "etag ignored"]
    blind = ("tests/unit/test_clock.py",)
    gone = ("tests/unit/test_clock.py::test_that_is_gone",)
    assert [found.caught_by for found in hunt([replace(broken, caught_by=tests) for tests in (blind, gone)])] == [
        None,
        None,
    ]


def test_a_patch_that_does_not_fit_the_code_any_more_is_told() -> None:
    for times in (0, 2):
        with pytest.raises(NotApplied, match="etag ignored"):
            Mutant("etag ignored", "m", (("old", "new"),), ()).applied("old " * times)
