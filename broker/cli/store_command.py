"""Tries the store contract on a live store, before anyone trusts it with claims."""

from typing import Annotated

import typer

from broker.cli import options


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check-store", rich_help_panel="Operation")(check_store)


def check_store(
    url: Annotated[str, typer.Argument(metavar="URL", help="memory://, sqlite:///path or cosmos://….")],
    create: Annotated[
        bool, typer.Option("--create", help="Make a SQLite file that is missing; for Cosmos, `create=1` in the URL.")
    ] = False,
    json: options.Json = False,
) -> int:
    """Run every promise of the store contract on a store; its documents are set apart from any job's."""
    from broker.cli.errors import CommandError
    from broker.cli.exits import Exit
    from broker.cli.output import complain, emit, note, say
    from broker.repository import INDEXES
    from broker.searches import SEARCHED
    from broker.settings import load
    from datastore import DatastoreError, Missing, connect
    from datastore.contract import run_checks
    from datastore.interface import Trouble

    def warn(trouble: Trouble, text: str) -> None:
        if trouble is not Trouble.DENIED:  # of that one each check speaks by itself
            problem, _, step = text.rpartition("; ")
            note(f"warning: {problem}", f"next: {step}")

    key = load().cosmos_key
    try:
        secret = None if key is None else key.get_secret_value()
        store = connect(url, indexes=INDEXES, searched=SEARCHED, cosmos_key=secret, create=create, on_trouble=warn)
    except ValueError as error:
        raise CommandError(str(error), "correct the URL", exit=Exit.USAGE) from error
    except Missing as error:
        step = "make the folder first" if create else "have it made by --create"
        raise CommandError(str(error), f"correct the URL, or {step}") from error
    except DatastoreError as error:
        raise CommandError.from_text(str(error), otherwise="check the URL and that the store can be reached") from error
    broken = 0
    try:
        for finding in run_checks(store):
            broken += finding.failure is not None
            if json:
                emit({"check": finding.name, "ok": finding.failure is None, "failure": _text(finding.failure)})
            else:
                say(f"ok      {finding.name}" if finding.failure is None else f"broken  {finding.name}")
                if finding.failure is not None:
                    say(f"        {_text(finding.failure)}")
    finally:
        store.close()
    if broken and not json:
        complain(f"{broken} promises of the contract do not hold", "don't serve jobs from this store")
    return Exit.REFUSED if broken else Exit.DONE


def _text(failure: Exception | None) -> str | None:
    return None if failure is None else f"{type(failure).__name__}: {failure}"
