"""What the campaign's factories are given: jobs of three kinds, and jobs that all of them want at the same moment."""

from typing import Final

QUEUE: Final = "chaos"
RACE_QUEUE: Final = "race"
TTL_MS: Final = 1_500
SKEW_MS: Final = 100
TIMING: Final = {
    "BROKER_TTL_MS": str(TTL_MS),
    "BROKER_SKEW_MS": str(SKEW_MS),
    "BROKER_SWEEP_INTERVAL_MS": "400",
    "BROKER_TAKEOVER_MS": "2500",
}
RACE_EVERY_MS: Final = 500
PLAIN, LONG, ABANDONED = "plain", "long", "abandoned"
"""Some work; work for longer than a ttl, under renewals; the same, but given up at the first try."""
WORK_MS: Final = {PLAIN: 30, LONG: 2 * TTL_MS, ABANDONED: 2 * TTL_MS}
LATE_MS: Final = 2 * TTL_MS + 1_000
"""When the first holder of an abandoned job comes back: another one holds it then, most likely."""
DRAIN_FILE: Final = "drain"
"""While this file is there, factories also take what was left over from races."""


def kind_of(number: int) -> str:
    """What sort of job the n-th is."""
    if number % 50 == 7:
        return ABANDONED
    return LONG if number % 80 == 11 else PLAIN


def race_job(slot: int) -> str:
    """The job that every factory claims by name as this slot begins."""
    return f"race-{slot}"
