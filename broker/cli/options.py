"""The options that several commands share, each declared once."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from broker.wire_types import WAIT_MS_MAX

SECONDS_MAX = 31_536_000


def milliseconds(text: str | int) -> int:
    """Milliseconds of a number of seconds (`5`, `0.5`), or of a duration such as `90s`, `3m` or `1h30m`."""
    if isinstance(text, int):  # a default, which the parser hands through
        return text
    try:
        seconds = float(text)
    except ValueError:
        from broker.jobfile import duration_ms

        try:
            return duration_ms(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    if not math.isfinite(seconds) or not 0 <= seconds <= SECONDS_MAX:
        raise typer.BadParameter(f"{text} is not a number of seconds from 0 to {SECONDS_MAX}")
    return round(seconds * 1000)


def moment(text: str | int) -> int:
    """Unix milliseconds of a time such as `2026-01-31T18:00:00Z`, or `+10m` from now."""
    if isinstance(text, int):
        return text
    from broker.clock import host_now_ms
    from broker.jobfile import moment_ms

    try:
        return moment_ms(text, host_now_ms())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def json_value(text: str) -> Any:
    """JSON given as it is, as `@file`, or as `-` for standard input."""
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        return json.loads(text, parse_constant=_refuse_constant)
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"can't read {text}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"not JSON: {error}. A text needs double quotes inside the shell's own") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def listed(values: list[str] | None) -> list[str]:
    """Values of an option that may be repeated, and may hold several between commas."""
    return [part for value in values or () for part in (piece.strip() for piece in value.split(",")) if part]


def _within(least_ms: int, most_ms: int) -> Callable[[str | int], int]:
    """Milliseconds as above, within what the protocol allows: told in the unit they were written in."""

    def parse(text: str | int) -> int:
        ms = milliseconds(text)
        if not least_ms <= ms <= most_ms:
            raise typer.BadParameter(f"{text}: {least_ms // 1000} to {most_ms // 1000} seconds")
        return ms

    return parse


RedisUrl = Annotated[
    str | None,
    typer.Option("--redis", metavar="URL", help="Redis; else BROKER_REDIS_URL, else the fleet in the state folder."),
]
StateFolder = Annotated[
    Path | None,
    typer.Option("--state-dir", metavar="DIR", help="State folder; else BROKER_STATE_DIR, else .broker."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object; for lists one a line.")]
Timeout = Annotated[
    int | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        parser=milliseconds,
        help="How long to try: 5, 0.5, 90s or 2m; default 10 seconds.",
    ),
]
RequestId = Annotated[
    str | None,
    typer.Option("--request-id", metavar="R", help="Repeat a request under its id to have it take effect once."),
]
Factory = Annotated[
    str | None, typer.Option("--factory", metavar="F", help="Name of this factory; else BROKER_FACTORY.")
]
Incarnation = Annotated[
    str, typer.Option("--incarnation", metavar="I", help="One start of the factory; a resend must carry the same.")
]
Queue = Annotated[str, typer.Option("--queue", metavar="Q", help="Queue of jobs.")]
Ttl = Annotated[
    int | None,
    typer.Option(
        "--ttl",
        metavar="SECONDS",
        parser=_within(1_000, 86_400_000),
        help="Length of the lease, e.g. 60 or 5m; else the job's, the broker's.",
    ),
]
Wait = Annotated[
    int,
    typer.Option(
        "--wait",
        metavar="SECONDS",
        parser=_within(0, WAIT_MS_MAX),
        help="How long to wait for a job that fits, 60 at most.",
    ),
]
Grace = Annotated[
    int,
    typer.Option(
        "--grace",
        metavar="SECONDS",
        parser=milliseconds,
        help="From TERM to KILL, where CMD has to stop; default 10 seconds.",
        show_default=False,  # it is kept in milliseconds
    ),
]
GRACE_MS = 10_000
Count = Annotated[
    int | None,
    typer.Option("--count", metavar="N", min=1, max=64, help="Up to N jobs at once; `grants` then holds the leases."),
]
Offers = Annotated[
    list[str] | None,
    typer.Option(
        "--offers", "--requires", metavar="K=V", help="What this factory offers; repeat it, or separate by commas."
    ),
]
JobId = Annotated[str, typer.Argument(metavar="JOB_ID", help="The job.")]
LeasedJobId = Annotated[str, typer.Argument(metavar="JOB_ID", envvar="BROKER_JOB_ID", help="The leased job.")]
Epoch = Annotated[
    int, typer.Option("--epoch", metavar="N", min=1, envvar="BROKER_LEASE_EPOCH", help="Epoch of the lease.")
]
Token = Annotated[
    str,
    typer.Option(
        "--token",
        metavar="T",
        envvar="BROKER_LEASE_TOKEN",
        help="Token of the lease: better `@file`, `-` for standard input, or the variable; others see arguments.",
    ),
]
Result = Annotated[
    Any, typer.Option("--result", metavar="JSON", parser=json_value, help="JSON, `@file`, or `-` for standard input.")
]
Why = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Kept with the job.")]
DatastoreUrl = Annotated[
    str | None,
    typer.Option("--datastore", metavar="URL", help="memory://, sqlite:///path or cosmos://…; else SQLite here."),
]
