"""Keys of the memory store, in order."""

from bisect import bisect_right
from random import Random

import pytest

from datastore import sorted_keys
from datastore.sorted_keys import Key, Place, SortedKeys


@pytest.mark.parametrize("seed", range(20))
def test_keys_come_in_order_from_every_place(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(sorted_keys, "PART_MAX", 4)
    dice = Random(seed)
    wanted: list[Key] = [(dice.choice("abc"), f"{number:03}") for number in range(80)]
    wanted = wanted if seed % 3 == 0 else sorted(wanted) if seed % 3 == 1 else sorted(wanted, reverse=True)
    keys = SortedKeys()
    assert list(keys.after(None)) == []
    for number, key in enumerate(wanted):
        keys.add(key)
        there = sorted(wanted[: number + 1])
        assert list(keys.after(None)) == there
        places: list[Place] = [dice.choice(wanted), (dice.choice("abc"),), ("", ""), ("d", "")]
        for place in places:
            assert list(keys.after(place)) == there[bisect_right(there, place) :]
    assert max(map(len, keys._parts)) < 8
