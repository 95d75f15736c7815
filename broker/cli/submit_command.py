"""Submits the jobs of job files, all of a file or none."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.cli import options
from broker.cli.session import Target, connected

if TYPE_CHECKING:
    from broker.jobfile import Format, Submission
    from broker.messages import SubmitBody

STDIN = "-"
_FORMATS = ("markdown", "json", "jsonl")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Jobs")(submit)


def submit(
    files: Annotated[list[str], typer.Argument(metavar="FILE|-", help="Job files; `-` is standard input.")],
    format: Annotated[
        str | None,
        typer.Option("--format", metavar="|".join(_FORMATS), help="Else told by suffix or first characters."),
    ] = None,
    id: Annotated[str | None, typer.Option("--id", metavar="ID", help="Id of the job, where there is one.")] = None,
    queue: Annotated[str | None, typer.Option("--queue", metavar="Q", help="Instead of what the files say.")] = None,
    priority: Annotated[
        int | None, typer.Option("--priority", metavar="N", help="Instead of what the files say; higher is sooner.")
    ] = None,
    set: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key of a job file, for all of them.")
    ] = None,
    request_id: options.RequestId = None,
    factory: options.Factory = None,
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> int:
    """Submit jobs: Markdown with front matter, JSON or JSON Lines. A bad file is named, and nothing of it sent."""
    from broker.cli.answers import finish
    from broker.cli.exits import Exit
    from broker.cli.output import note

    if format is not None and format not in _FORMATS:
        raise typer.BadParameter(f"{format!r} is none of {', '.join(_FORMATS)}", param_hint="--format")
    given = _settings(set or [], {"id": id, "queue": queue, "priority": priority})
    bodies: list[SubmitBody] = []
    status = 0
    for file in files:
        found = read_file(file, format, json=json)
        if found is None:
            status = int(Exit.REFUSED)
        else:
            bodies += _bodies(found, given)
    if "job_id" in given and len(bodies) > 1:
        raise typer.BadParameter(f"an id names one job, and the files hold {len(bodies)}", param_hint="--id")
    if not bodies:
        return status
    if status and request_id is not None:
        note("nothing was submitted: under one --request-id the jobs of all files go together, or their numbers change")
        return status
    repeat, ids = request_ids(request_id, len(bodies))
    with connected(Target(redis, state_dir, timeout, factory)) as client:
        for reply in client.submit_many(bodies, request_ids=ids):
            good = f"{reply.body.get('job_id')}  {reply.body.get('state')}"
            good += ", joined: it has the unique key" if reply.body.get("joined") else ""
            status = max(status, finish(reply, json=json, good=good, repeat=repeat))
    return status


def read_file(file: str, format: "Format | str | None", *, json: bool) -> "list[Submission] | None":
    """The jobs of a file; None, and every fault told, where it has one."""
    from broker.cli.output import emit, note
    from broker.clock import host_now_ms
    from broker.jobfile import JobFileError, parse_job_bytes, read_job_file

    known: Any = format
    try:
        if file == STDIN:
            return parse_job_bytes(sys.stdin.buffer.read(), "<stdin>", known, now_ms=host_now_ms())
        return read_job_file(file, known, now_ms=host_now_ms())
    except JobFileError as error:
        for problem in error.problems:
            if json:
                emit({"error": problem.reason, "file": problem.source, "line": problem.line})
            else:
                note(str(problem))
        if not json:
            note(f"next: correct {error.source}, nothing of which was submitted; docs/job-files.md has the format")
        return None


def _settings(pairs: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """What `--set` says: a key of the job file's table each; and what the options that stand for such a key say."""
    from broker.clock import host_now_ms
    from broker.jobfile import KEYS, FieldFaults, submission_body

    fields = {key: value for key, value in options.items() if value is not None}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--set")
        if key in fields:
            raise typer.BadParameter(f"{key} stands twice", param_hint="--set")
        fields[key] = _value(key, text)
    if unknown := sorted(fields.keys() - KEYS):
        why = f"{', '.join(unknown)} can't be set: only keys that docs/job-files.md gives a meaning can"
        raise typer.BadParameter(why, param_hint="--set")
    try:
        body = submission_body(fields, now_ms=host_now_ms())
    except FieldFaults as error:
        raise typer.BadParameter(str(error)) from error
    del body["payload"]  # it comes from the files
    return body


def _value(key: str, text: str) -> Any:
    """JSON where it is some, else the text itself. What begins as a list or an object is meant as JSON."""
    from broker.jobfile import json_value

    try:
        return json_value(text)
    except ValueError as error:
        if text.startswith(("[", "{")):
            raise typer.BadParameter(f"{key}: {error}", param_hint="--set") from error
        return text


def _bodies(found: "list[Submission]", given: dict[str, Any]) -> "Iterator[SubmitBody]":
    """What is sent. The files' own values are valid already; a wrong override is a wrong command line."""
    from pydantic import ValidationError

    from broker.messages import SubmitBody

    for submission in found:
        try:
            yield SubmitBody.model_validate({**submission.body, **given})
        except ValidationError as error:
            [first, *_] = error.errors(include_url=False, include_input=False)
            raise typer.BadParameter(f"--{str(first['loc'][0]).removeprefix('job_')}: {first['msg']}") from error


def request_ids(given: str | None, count: int) -> tuple[str | None, list[str] | None]:
    """What a command that asks for `count` things is repeated under, and the request id of each of them.

    For several they are numbered, the same at each repetition. None: its only request has one of its own.
    """
    from broker.client import NewId
    from broker.entropy import SystemEntropy

    if count == 1:
        return given, None if given is None else [given]
    numbers = range(1, count + 1)
    if given is not None:
        return given, [f"{given}-{number}" for number in numbers]
    drawn = SystemEntropy().token()
    return drawn, [NewId(f"{drawn}-{number}") for number in numbers]
