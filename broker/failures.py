"""A mistake of ours as text for the log, without the values of variables: tokens and payloads are among them.

`log.exception` leaves it to whoever reads the log what is shown, and structlog as it comes shows every local variable.
"""

import traceback


def trace() -> str:
    """Where the exception that is being handled was raised, and what it says."""
    return traceback.format_exc()
