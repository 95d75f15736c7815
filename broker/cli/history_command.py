"""Checks what clients have written down: whether a sound broker can have answered like that."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.cli import options

if TYPE_CHECKING:
    from broker.history import Record, Report, Violation

VIOLATIONS_SHOWN_MAX = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check-history", rich_help_panel="Operation")(check_history)


def check_history(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Histories of clients (BROKER_HISTORY), or folders of them.")
    ],
    drained: Annotated[
        bool, typer.Option("--drained", help="Every job was to end: one that did not is lost, and that is wrong.")
    ] = False,
    json: options.Json = False,
) -> int:
    """Decide whether a history keeps every promise: one holder, one completion, nothing stale, nothing lost."""
    from broker.cli.errors import CommandError
    from broker.cli.exits import Exit
    from broker.cli.output import note
    from broker.history import Log, verdict
    from broker.history.reading import NotAHistory, read

    log, cut_off = Log(), list[str]()
    try:
        for records in read(files, cut_off=cut_off.append):
            log.feed(records)
    except NotAHistory as error:
        raise CommandError.from_text(str(error), otherwise="check the files", exit=Exit.USAGE) from error
    except OSError as error:
        raise CommandError(str(error), "check the path", exit=Exit.USAGE) from error
    if not log.calls:
        raise CommandError("no call is written down there", "was BROKER_HISTORY set?", exit=Exit.USAGE)
    for place in cut_off[:VIOLATIONS_SHOWN_MAX]:
        note(f"{place} was cut off (was the disk full?), and the history of its client ends there; others went on")
    report = verdict(log, drained=drained)
    (_tell_programs if json else _tell_people)(report)
    return Exit.DONE if report.ok else Exit.REFUSED


def _tell_programs(report: "Report") -> None:
    from broker.cli.output import emit

    for violation in report.violations:
        emit(_shown(violation))
    emit(report.plain())


def _tell_people(report: "Report") -> None:
    from broker.cli.output import note, say

    for violation in report.violations[:VIOLATIONS_SHOWN_MAX]:
        at = "" if violation.epoch is None else f" epoch {violation.epoch}"
        say(f"{violation.rule}: job {violation.job}{at}: {violation.why}")
        for record in violation.records:
            say(f"    {record.place}  {_line(record)}")
    if len(report.violations) > VIOLATIONS_SHOWN_MAX:
        say(f"… and {len(report.violations) - VIOLATIONS_SHOWN_MAX} more; --json lists all")
    if not report.timed:
        note("these are histories of several machines: what happened before what was not judged")
    counts = " ".join(f"{name}={value}" for name, value in report.plain().items() if not isinstance(value, bool))
    say(f"history: {'ok' if report.ok else 'broken'} {counts}")


def _line(record: "Record") -> str:
    said = {"epoch": record.epoch, "seen": record.seen, "state": record.state, "request": record.request}
    details = " ".join(f"{name}={value}" for name, value in said.items() if value is not None)
    answer = record.answer if record.reason is None else f"{record.answer} ({record.reason})"
    return f"{record.op} by {record.factory}: {answer or record.type} {details}"


def _shown(violation: "Violation") -> dict[str, Any]:
    import msgspec

    return {
        "rule": violation.rule.value,
        "job": violation.job,
        "epoch": violation.epoch,
        "why": violation.why,
        "records": [msgspec.to_builtins(record) for record in violation.records],
    }
