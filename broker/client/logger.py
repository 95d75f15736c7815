"""What a program's client logs: a line that can't be written ends nothing, least of all what keeps a lease."""

from contextlib import suppress
from typing import Any

import structlog


class Logger:
    """As structlog's, wherever the program sends that, except that it never fails.

    Standard error may be a pipe whose reader has gone, or a file on a full disk; what a program puts in its place, and
    its processors, are its own.
    """

    def __init__(self, name: str) -> None:
        self._log = structlog.get_logger(name)

    def info(self, event: str, **fields: Any) -> None:
        """Of interest."""
        with suppress(Exception):
            self._log.info(event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something went wrong, and the client goes on."""
        with suppress(Exception):
            self._log.warning(event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something is to be mended."""
        with suppress(Exception):
            self._log.error(event, **fields)
