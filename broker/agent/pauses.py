"""How long an agent pauses before it asks again: the same where it registers and where it claims."""

PAUSE_MS = 1_000
PAUSE_MAX_MS = 30_000
"""Between two tries that failed: doubled each time up to this."""


def pause_ms(failures: int) -> int:
    """The pause after so many failures in a row."""
    return min(PAUSE_MAX_MS, PAUSE_MS << min(failures, 5))
