"""How long the supervisor waits before it starts a child again."""

from random import Random

import pytest

from workers.fleet import RESTART_MAX_MS, RESTART_MIN_MS, restart_delay_ms


@pytest.mark.parametrize(("quick_exits", "bound_ms"), [(1, 400), (2, 800), (5, 6_400), (6, 10_000), (10_000, 10_000)])
def test_the_bound_doubles_with_each_quick_exit_up_to_ten_seconds(quick_exits: int, bound_ms: int) -> None:
    random = Random(1)
    delays = [restart_delay_ms(quick_exits, random) for _ in range(1_000)]
    spread = bound_ms - RESTART_MIN_MS
    assert RESTART_MIN_MS <= min(delays) < RESTART_MIN_MS + spread * 0.05
    assert bound_ms - spread * 0.05 < max(delays) <= bound_ms <= RESTART_MAX_MS
