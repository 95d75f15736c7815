"""Makes, lists and revokes the keys that factories sign with. Where this runs, the signing secret is."""

from typing import TYPE_CHECKING, Annotated

import typer

from broker.cli import options
from broker.signing import Role

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from broker.settings import Settings
    from datastore import Datastore

KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="As `broker key list` shows it.")]
Owner = Annotated[str, typer.Option("--factory", metavar="F", help="Who is to sign with it.")]
Purpose = Annotated[Role, typer.Option("--role", help="What its owner may ask for; see SECURITY.md.")]
Out = Annotated[
    str, typer.Option("--out", metavar="FILE", help="Where it is written, for its owner only; `-` shows it.")
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    key = typer.Typer(help="Keys that factories sign their requests with.", no_args_is_help=True)
    key.command("new")(new)
    key.command("list")(list_keys)
    key.command("revoke")(revoke)
    app.add_typer(key, name="key", rich_help_panel="Operation")


def new(
    factory: Owner,
    out: Out,
    role: Purpose = Role.FACTORY,
    datastore: options.DatastoreUrl = None,
    state_dir: options.StateFolder = None,
    json: options.Json = False,
) -> int:
    """Make a key. Its file is the secret: give it to the factory as BROKER_KEY_FILE. A factory may have several.

    The first key of a local fleet also makes the signing secret in the state folder.
    """
    from broker.cli.output import emit, say
    from broker.clock import host_now_ms
    from broker.entropy import SystemEntropy
    from broker.keyring import record
    from broker.settings import load
    from broker.signing import BadKey
    from workers.cli.failures import told
    from workers.key_files import masters_made, write_key

    settings = load(datastore_url=datastore, state_dir=state_dir)
    with told(), _store(settings, create=True) as store:
        try:
            key = masters_made(settings, made=_tell_of_secret).new_key(factory, role)
        except BadKey as error:
            raise typer.BadParameter(f"{factory} can't be the name of a factory", param_hint="--factory") from error
        if out != "-":
            write_key(out, key.text())
        record(store, SystemEntropy(), key, now_ms=host_now_ms())
    if out == "-":
        typer.echo(key.text(), nl=False)
    elif json:
        emit({"key_id": key.id, "factory": factory, "role": role.value, "file": out})
    else:
        say(f"key {key.id} is in {out}; give it to {factory} as BROKER_KEY_FILE")
    return 0


_SECRETS = {True: "this one", False: "another", None: "-"}
"""Of which signing secret a key is, as seen from here; none may be known."""


def _tell_of_secret(path: "Path") -> None:
    """Another secret's keys are unknown to workers that have one: whoever forgot to name theirs is to see it here."""
    from broker.cli.output import note

    note(
        f"note: made a signing secret, {path}; workers that have another (BROKER_SIGNING_SECRET_FILE) know no such key"
    )


def list_keys(
    datastore: options.DatastoreUrl = None,
    state_dir: options.StateFolder = None,
    json: options.Json = False,
) -> int:
    """List every key, revoked ones too, and whether the signing secret known here has made it. No secret is shown."""
    from broker.cli.output import emit, moment, note, table
    from broker.keyring import records
    from broker.settings import load
    from broker.signing import KeyId as Id
    from workers.cli.failures import told
    from workers.runtime import StartError, signing_masters

    settings = load(datastore_url=datastore, state_dir=state_dir)
    with told(), _store(settings) as store:
        found = sorted(records(store), key=lambda each: each.created_ms)
    masters = None
    try:
        masters = signing_masters(settings)
    except StartError as error:  # who is to revoke a key need not have it
        note(f"note: {error}")
    made = {each.id: None if masters is None else masters.made(each.id) for each in found}
    if json:
        for each in found:
            owner = Id.parse(each.id)
            shown = {"key_id": each.id, "factory": owner.factory, "role": owner.role.value}
            times = {"created_ms": each.created_ms, "revoked_ms": each.revoked_ms}
            emit({**shown, **times, "of_this_secret": made[each.id]})
        return 0
    rows = [
        (
            each.id,
            moment(each.created_ms),
            "-" if each.revoked_ms is None else moment(each.revoked_ms),
            _SECRETS[made[each.id]],
        )
        for each in found
    ]
    table(("KEY ID", "CREATED", "REVOKED", "SECRET"), rows)
    return 0


def revoke(
    key_id: KeyId,
    datastore: options.DatastoreUrl = None,
    state_dir: options.StateFolder = None,
    json: options.Json = False,
) -> int:
    """Take a key out of use, for good. Every worker refuses it within a second."""
    from broker.cli.errors import CommandError
    from broker.cli.output import emit, say
    from broker.clock import host_now_ms
    from broker.entropy import SystemEntropy
    from broker.settings import load
    from workers.cli.failures import told

    with told(), _store(load(datastore_url=datastore, state_dir=state_dir)) as store:
        from broker.keyring import revoke as take_back

        if not take_back(store, SystemEntropy(), key_id, now_ms=host_now_ms()):
            raise CommandError(f"there is no key {key_id}", "see `broker key list`")
    if json:
        emit({"key_id": key_id, "revoked": True})
    else:
        say(f"key {key_id} is revoked")
    return 0


def _store(settings: "Settings", *, create: bool = False) -> "AbstractContextManager[Datastore]":
    """The datastore that the workers use, where this process can reach it. `create`: also before any of them ran."""
    from contextlib import closing

    from workers.runtime import StartError, datastore_url, open_store

    url = datastore_url(settings)
    if url.startswith("memory:"):
        raise StartError("keys can't be kept in memory://, which only its worker can reach; use sqlite:///path")
    return closing(open_store(settings, url, create=create))
