"""Prints the Redis rules of each role, to be read and then piped into `redis-cli`."""

from pathlib import Path
from typing import Annotated

import typer

from broker.acl import RedisRole, user_line

_ASKS = frozenset({RedisRole.FACTORY, RedisRole.SUBMITTER})
"""They have a reply channel of their own."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Operation")(acl)


def acl(
    factory: Annotated[
        str | None, typer.Option("--factory", metavar="F", help="Under which name its clients ask.")
    ] = None,
    role: Annotated[RedisRole | None, typer.Option("--role", help="Whose user it is; else one line for each.")] = None,
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="NAME", help="The user; else called after the factory, or the role."),
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option("--password-file", metavar="FILE", help="Its password; only its digest is printed.")
    ] = None,
) -> int:
    """Print `ACL SETUSER …` with what each role, or this one, needs and nothing else. Needs Redis 7, or any Valkey."""
    _check_name("--factory", factory)
    _check_name("--user", user)
    if role is None and (user or password_file):
        raise typer.BadParameter("users of five roles share neither a name nor a password: say whose with --role")
    if factory is None and (role is None or role in _ASKS):
        who = "a factory" if role is None else f"a {role.value}"
        raise typer.BadParameter(f"{who} answers to a name, after which its reply channel is called: say --factory F")
    password = None if password_file is None else _password(password_file)
    if role is not None:
        name = user or (factory if role in _ASKS else None) or role.value
        typer.echo(user_line(name, role, factory=factory, password=password))
        return 0
    asks = {RedisRole.FACTORY: factory, RedisRole.SUBMITTER: f"{factory}-submitter"}  # the others read no one's replies
    names = {each: asks.get(each) or each.value for each in RedisRole}
    if len(set(names.values())) < len(names):  # the rules that come last would be all that this user has
        raise typer.BadParameter(f"{factory} is what the user of a role is called, too: say --role, and --user for one")
    for each, name in names.items():
        typer.echo(user_line(name, each, factory=asks.get(each)))
    return 0


def _check_name(option: str, name: str | None) -> None:
    from pydantic import TypeAdapter, ValidationError

    from broker.wire_types import FactoryId

    try:
        TypeAdapter(FactoryId).validate_python("x" if name is None else name)
    except ValidationError as error:
        raise typer.BadParameter("letters, digits, `.`, `_` and `-`", param_hint=option) from error


def _password(file: Path) -> str:
    try:
        password = file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"can't read it: {error}", param_hint="--password-file") from error
    if not password:
        raise typer.BadParameter(f"{file} holds no password", param_hint="--password-file")
    return password
