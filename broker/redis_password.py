"""A password for Redis that may change while a process runs: it is asked for as each connection is opened."""

from collections.abc import Callable
from typing import Any, TypeAlias

from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError as RedisConnectionError

Password: TypeAlias = str | Callable[[], str]
"""A password, or who knows it: called by whatever thread opens a connection, and often while Redis is away."""


def let_in(pool: Any, password: Password | None) -> None:
    """Have this pool's connections give this password, unless its URL has one. For pools of either kind."""
    options = pool.connection_kwargs
    if password is None or options.get("password") is not None:
        return
    if isinstance(password, str):
        options["password"] = password
    else:
        options["credential_provider"] = _Asked(options.pop("username", None), password)


class _Asked(CredentialProvider):
    def __init__(self, username: str | None, password: Callable[[], str]) -> None:
        self._username = username
        self._password = password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            password = self._password()
        except Exception as error:  # whoever connects knows what to do where there is no connection
            raise RedisConnectionError(f"the password can't be had: {type(error).__name__}: {error}") from error
        return (password,) if self._username is None else (self._username, password)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()
