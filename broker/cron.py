"""When a cron expression fires, by the wall clock of a time zone: pure, the time is given."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice, takewhile
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

FIELDS = 5
"""Minute, hour, day, month, weekday. No seconds: the sweep does not come that often."""
_DAY_S = 86_400
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  # what clocks show, of whatever zone

ZONE = "UTC"
"""Of whoever names none."""
UNKNOWN: Final = (CronSimError, ZoneInfoNotFoundError, ValueError, OSError)
"""What these functions raise for an expression or a zone that this process does not know."""


def check(expression: str, zone: str) -> None:
    """Do nothing for an expression that fires some day, in a zone that exists.

    Raises:
      ValueError: one of them does not; the message says which.
    """
    if len(expression.split()) != FIELDS:
        raise ValueError(f"{expression!r} needs {FIELDS} fields: minute hour day month weekday, such as `*/5 * * * *`")
    try:
        fires = next_after(expression, zone, 0)
    except CronSimError as error:
        raise ValueError(f"{expression!r}: {error}") from error
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{zone!r} is no time zone: write UTC, or a name such as Europe/Berlin") from error
    if fires is None:
        raise ValueError(f"{expression!r} never fires")


def next_after(expression: str, zone: str, after_ms: int) -> int | None:
    """The first time after `after_ms`, Unix milliseconds; None where there is none for fifty years."""
    return next(_fires(expression, zone, after_ms), None)


def within(expression: str, zone: str, *, after_ms: int, until_ms: int, at_most: int) -> list[int]:
    """The first `at_most` times after `after_ms`, up to and with `until_ms`."""
    fires = takewhile(lambda fire_ms: fire_ms <= until_ms, _fires(expression, zone, after_ms))
    return list(islice(fires, at_most))


def last_until(expression: str, zone: str, until_ms: int) -> int | None:
    """The last time up to and with `until_ms`."""
    until_s = until_ms // 1_000
    ahead_s = _ahead_s(_zone(zone), until_s)
    for wall in CronSim(expression, _shown(until_s + 1, ahead_s), reverse=True):
        # It may be a time that is not shown, or shown twice: from a day before on, more than any clock is changed by.
        from_ms = (_seconds(wall) - ahead_s - _DAY_S) * 1_000
        fires = [*takewhile(lambda fire_ms: fire_ms <= until_ms, _fires(expression, zone, from_ms))]
        if fires:
            return fires[-1]
    return None


def _fires(expression: str, zone: str, from_ms: int) -> Iterator[int]:
    """All times after `from_ms`, in order."""
    where, last_ms = _zone(zone), from_ms
    # As in Debian's cron: what is to be at certain times is that often a day, also where a clock is changed; what is
    # to be every so many minutes or hours is whenever the clock shows such a time.
    often = any(field.startswith("*") for field in expression.split()[:2])
    for fire_s in (_whenever_shown if often else _once_a_day)(expression, where, from_ms // 1_000):
        if fire_s * 1_000 > last_ms:
            last_ms = fire_s * 1_000
            yield last_ms


def _once_a_day(expression: str, where: tzinfo, from_s: int) -> Iterator[int]:
    """At each time by the clock, where that is shown twice the first time, and where it is not as the clock goes on.

    Those that come first may be before `from_s`.
    """
    for moment in CronSim(expression, datetime.fromtimestamp(from_s, where)):
        yield round(moment.timestamp())


def _whenever_shown(expression: str, where: tzinfo, from_s: int) -> Iterator[int]:
    """Whenever the clock shows such a time after `from_s`.

    Not left to CronSim: where an hour is repeated that does not begin with its first minute, it never comes back.
    """
    at_s, ahead_s, changed = from_s, _ahead_s(where, from_s), True
    while changed:
        changed = False
        for wall in CronSim(expression, _shown(at_s, ahead_s)):
            fire_s = _seconds(wall) - ahead_s
            if changed := _ahead_s(where, fire_s) != ahead_s:
                change_s = _change(where, at_s, fire_s)
                at_s, ahead_s = change_s - 1, _ahead_s(where, change_s)
                break
            yield fire_s
            at_s = fire_s


def _change(where: tzinfo, before_s: int, after_s: int) -> int:
    """The second in which the clock of a zone is changed between these two."""
    ahead_s = _ahead_s(where, before_s)
    while after_s - before_s > 1:
        middle_s = (before_s + after_s) // 2
        if _ahead_s(where, middle_s) == ahead_s:
            before_s = middle_s
        else:
            after_s = middle_s
    return after_s


def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)


def _ahead_s(where: tzinfo, at_s: int) -> int:
    """How far a clock is ahead of UTC at a time."""
    ahead = datetime.fromtimestamp(at_s, where).utcoffset()
    assert ahead is not None, "of a zone it is known"
    return round(ahead.total_seconds())


def _shown(at_s: int, ahead_s: int) -> datetime:
    """What a clock shows that is so far ahead of UTC."""
    return _EPOCH + timedelta(seconds=at_s + ahead_s)


def _seconds(wall: datetime) -> int:
    return round((wall - _EPOCH).total_seconds())
