"""What is only shown is told to Redis once a second, not with each batch."""

from itertools import takewhile

from broker.lately import EVERY_MS, NAMES_MAX, Lately

NOW = 1_700_000_000_000


def test_a_name_is_told_again_only_once_what_was_told_is_old() -> None:
    lately = Lately()
    assert lately.news(["mac-1", "mac-2"], NOW) == {"mac-1": NOW, "mac-2": NOW}
    assert lately.news(["mac-1", "mac-3"], NOW + EVERY_MS - 1) == {"mac-3": NOW + EVERY_MS - 1}
    assert lately.news(["mac-1"], NOW + EVERY_MS) == {"mac-1": NOW + EVERY_MS}


def test_after_a_clock_was_set_back_everything_is_told_again() -> None:
    lately = Lately()
    lately.news(["mac-1"], NOW + 3_600_000)
    assert lately.news(["mac-1"], NOW) == {"mac-1": NOW}


def test_however_many_names_come_only_so_many_are_kept() -> None:
    lately = Lately()
    for number in range(3 * NAMES_MAX):
        lately.news([f"factory-{number}"], NOW)
    latest_first = (f"factory-{number}" for number in reversed(range(3 * NAMES_MAX)))
    kept = list(takewhile(lambda name: not lately.news([name], NOW), latest_first))
    assert 0 < len(kept) <= NAMES_MAX + 1
