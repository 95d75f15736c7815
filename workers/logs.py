"""Logs of the broker's processes: one event a line, constant names with fields, never a token."""

import logging
import sys

import structlog
from structlog.typing import Processor

from broker.log_lines import Log


def configure_logging(level: str) -> None:
    """Send events of `level` and above to standard error: readable on a terminal, JSON otherwise."""
    log = Log.of(sys.stderr)
    render: Processor = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            log.tell_of_gap,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: log,
        cache_logger_on_first_use=True,
    )
