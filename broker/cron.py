"""When a cron expression fires, by the wall clock of a time zone: pure, the time is given."""

from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from itertools import islice, takewhile
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

FIELDS = 5
"""Minute, hour, day, month, weekday. No seconds: the sweep does not come that often."""


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
    found = next(_fires(expression, zone, until_ms + 1_000, back=True), None)
    if found is None:
        return None
    # On its way back CronSim passes over some where a clock is changed by half an hour.
    later = takewhile(lambda fire_ms: fire_ms <= until_ms, _fires(expression, zone, found))
    return max([found, *later])


def _fires(expression: str, zone: str, from_ms: int, *, back: bool = False) -> Iterator[int]:
    where: tzinfo = UTC if zone == "UTC" else ZoneInfo(zone)
    start = datetime.fromtimestamp(from_ms // 1_000, where)
    return (round(moment.timestamp() * 1_000) for moment in CronSim(expression, start, reverse=back))
