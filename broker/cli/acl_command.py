"""Prints the Redis rules of a role, to be read and then piped into `redis-cli`."""

from pathlib import Path
from typing import Annotated

import typer

from broker.acl import RedisRole


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Operation")(acl)


def acl(
    factory: Annotated[
        str | None, typer.Option("--factory", metavar="F", help="Under which name its clients ask.")
    ] = None,
    role: Annotated[RedisRole, typer.Option("--role", help="Whose user it is.")] = RedisRole.FACTORY,
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="NAME", help="The user; else called after the factory, or the role."),
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option("--password-file", metavar="FILE", help="Its password; only its digest is printed.")
    ] = None,
) -> int:
    """Print `ACL SETUSER …` with what this role needs and nothing else. Needs Redis 7, or any Valkey."""
    from pydantic import TypeAdapter, ValidationError

    from broker.acl import user_line
    from broker.wire_types import FactoryId

    names = TypeAdapter(FactoryId)
    asks = role in (RedisRole.FACTORY, RedisRole.SUBMITTER)
    if asks and factory is None:
        raise typer.BadParameter(f"a {role.value} answers to a name: its reply channel is called after it")
    for option, name in (("--factory", factory), ("--user", user)):
        try:
            names.validate_python("x" if name is None else name)
        except ValidationError as error:
            raise typer.BadParameter("letters, digits, `.`, `_` and `-`", param_hint=option) from error
    password = None
    if password_file is not None:
        try:
            password = password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"can't read it: {error}", param_hint="--password-file") from error
        if not password:
            raise typer.BadParameter(f"{password_file} holds no password", param_hint="--password-file")
    name = user or (factory if asks else None) or role.value
    typer.echo(user_line(name, role, factory=factory, password=password))
    return 0
