"""Broker time: Redis says it, and no host's own clock."""

from broker.clock import AnchoredClock, ManualClock

LONG_AGO_MS = 1_000_000_000_000


def test_broker_time_is_carried_on_from_what_redis_said_whatever_this_hosts_own_clock_says() -> None:
    steady_ms = ManualClock(5_000)
    clock = AnchoredClock(LONG_AGO_MS, steady_ms.now_ms)
    assert clock.now_ms() == LONG_AGO_MS
    steady_ms.advance(61_000)
    assert clock.now_ms() == LONG_AGO_MS + 61_000


def test_it_goes_on_by_this_hosts_steady_clock() -> None:
    clock = AnchoredClock(LONG_AGO_MS)
    assert 0 <= clock.now_ms() - LONG_AGO_MS < 60_000
