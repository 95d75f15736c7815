"""Cron expressions by the wall clock of a zone, also where that clock is put back or forward."""

import signal
from collections.abc import Container, Iterator
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from zoneinfo import ZoneInfo

import pytest

from broker import cron

BERLIN = "Europe/Berlin"


def ms(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1_000)


def test_the_next_fire_is_after_and_never_at_the_time_given() -> None:
    at = ms("2026-01-31T02:00:00")
    assert cron.next_after("0 2 * * *", "UTC", at - 1) == at
    assert cron.next_after("0 2 * * *", "UTC", at) == ms("2026-02-01T02:00:00")


def test_fires_within_a_span_are_the_first_of_it_with_its_end() -> None:
    start, end = ms("2026-01-31T00:00:00"), ms("2026-01-31T01:00:00")
    fires = cron.within("*/15 * * * *", "UTC", after_ms=start, until_ms=end, at_most=100)
    assert [(fire - start) // 60_000 for fire in fires] == [15, 30, 45, 60]
    assert cron.within("*/15 * * * *", "UTC", after_ms=start, until_ms=end, at_most=2) == fires[:2]
    assert cron.last_until("*/15 * * * *", "UTC", end) == end
    assert cron.last_until("*/15 * * * *", "UTC", end - 1) == fires[2]


def test_a_nightly_time_fires_once_in_the_night_that_has_it_twice() -> None:
    start, end = ms("2026-10-24T12:00:00", BERLIN), ms("2026-10-26T12:00:00", BERLIN)
    fires = cron.within("30 2 * * *", BERLIN, after_ms=start, until_ms=end, at_most=10)
    assert fires == [ms("2026-10-25T02:30:00", BERLIN), ms("2026-10-26T02:30:00", BERLIN)]


def test_a_nightly_time_fires_also_in_the_night_that_does_not_have_it() -> None:
    start, end = ms("2026-03-28T12:00:00", BERLIN), ms("2026-03-30T12:00:00", BERLIN)
    fires = cron.within("30 2 * * *", BERLIN, after_ms=start, until_ms=end, at_most=10)
    assert fires == [ms("2026-03-29T03:00:00", BERLIN), ms("2026-03-30T02:30:00", BERLIN)]


@pytest.mark.parametrize("zone", ["UTC", BERLIN, "Australia/Lord_Howe"], ids=["never", "by an hour", "by half an hour"])
@pytest.mark.parametrize("night", ["2025-04-05", "2025-10-04", "2026-03-28", "2026-10-24"])
def test_looked_back_at_a_night_has_the_fires_that_it_had_whatever_its_clock_is_changed_by(
    zone: str, night: str
) -> None:
    start = ms(f"{night}T20:00:00", zone)
    fires = cron.within("*/20 * * * *", zone, after_ms=start, until_ms=start + 12 * 3_600_000, at_most=100)
    assert [cron.last_until("*/20 * * * *", zone, fire) for fire in fires] == fires
    nightly = cron.within("*/20 0 * * *", zone, after_ms=start, until_ms=start + 12 * 3_600_000, at_most=100)
    assert cron.last_until("*/20 0 * * *", zone, start + 12 * 3_600_000) == nightly[-1]


CHATHAM = "Pacific/Chatham"
"""Its clock is put back from 03:45 to 02:45, and forward from 02:45 to 03:45."""
NIGHTS = [
    ("UTC", "2027-04-03"),
    (BERLIN, "2026-03-28"),
    (BERLIN, "2026-10-24"),
    ("Australia/Lord_Howe", "2026-04-04"),
    ("Australia/Lord_Howe", "2026-10-03"),
    (CHATHAM, "2027-04-03"),
    (CHATHAM, "2026-09-26"),
    ("Africa/Cairo", "2026-04-23"),
    ("America/Havana", "2026-10-31"),
]


@contextmanager
def within_seconds(seconds: int) -> Iterator[None]:
    """Whatever goes on for ever within the block is ended."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("zone", "night"), NIGHTS)
@pytest.mark.parametrize(
    ("expression", "minutes", "hours"),
    [
        ("50 */3 * * *", {50}, range(0, 24, 3)),
        ("0 */2 * * *", {0}, range(0, 24, 2)),
        ("*/20 * * * *", range(0, 60, 20), range(24)),
        ("*/7 0-3 * * *", range(0, 60, 7), range(4)),
    ],
)
def test_what_is_to_be_every_so_often_is_whenever_the_clock_shows_such_a_time(
    zone: str, night: str, expression: str, minutes: Container[int], hours: Container[int]
) -> None:
    start = ms(f"{night}T12:00:00", zone)
    times = range(start, start + 86_400_000, 60_000)
    shown = {time: datetime.fromtimestamp(time / 1_000, ZoneInfo(zone)) for time in times}
    wanted = [time for time, clock in shown.items() if clock.minute in minutes and clock.hour in hours]
    with within_seconds(20):
        assert cron.within(expression, zone, after_ms=start - 1, until_ms=times[-1], at_most=1_000) == wanted


@pytest.mark.parametrize(("zone", "night"), NIGHTS)
@pytest.mark.parametrize("expression", ["1-59/13 0-4 * * *", "50 */3 * * *", "*/20 2,3 * * *"])
def test_the_same_times_are_next_and_were_last_wherever_in_a_night_one_begins_to_look(
    zone: str, night: str, expression: str
) -> None:
    start = ms(f"{night}T20:00:00", zone)
    end = start + 12 * 3_600_000
    with within_seconds(20):
        fires = cron.within(expression, zone, after_ms=start - 86_400_000, until_ms=end + 86_400_000, at_most=1_000)
        for time in range(start, end, 11 * 60_000 + 1):
            assert cron.next_after(expression, zone, time) == min(fire for fire in fires if fire > time)
            assert cron.last_until(expression, zone, time) == max(fire for fire in fires if fire <= time)


@pytest.mark.parametrize(
    ("expression", "zone", "names"),
    [
        ("* * * *", "UTC", "5 fields"),
        ("0 * * * * *", "UTC", "5 fields"),
        ("61 * * * *", "UTC", "Bad minute"),
        ("nonsense 1 1 1 1", "UTC", "Bad minute"),
        ("0 0 30 2 *", "UTC", "Bad day"),
        ("0 0 * * *", "Mars/Olympus", "no time zone"),
        ("0 0 * * *", "../etc/passwd", "no time zone"),
        ("0 0 * * *", "", "no time zone"),
    ],
)
def test_what_never_fires_is_refused_with_the_reason(expression: str, zone: str, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        cron.check(expression, zone)
