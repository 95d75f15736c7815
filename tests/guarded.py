"""A server whose users have their roles and no more, with a fleet on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import redis

from broker.acl import RedisRole, user_line
from broker.client import Client
from tests.fleet import Fleet
from workers.embedded import EmbeddedServer

USERS: Sequence[tuple[str, RedisRole]] = (
    ("mac-1", RedisRole.FACTORY),
    ("mac-10", RedisRole.FACTORY),
    ("ci", RedisRole.SUBMITTER),
    ("reader", RedisRole.READER),
    ("worker", RedisRole.WORKER),
    ("sweep", RedisRole.SWEEP),
)


class Guarded:
    """A server whose users have their roles and no more, with a fleet on it."""

    def __init__(self, server: EmbeddedServer, folder: Path) -> None:
        self.server = server
        with redis.Redis.from_url(server.url) as first:
            first.execute_command("ACL", "SETUSER", "admin", "on", ">admin-pw", "~*", "&*", "+@all")
            first.execute_command("ACL", "SETUSER", "default", "off")
        self.admin = redis.Redis.from_url(self.url("admin"))
        for name, role in USERS:
            self.command(*user_line(name, role, factory=name, password=f"{name}-pw").split())
        self.fleet = Fleet(self.url("admin"), folder)
        self.worker = self.fleet.start_worker({"BROKER_REDIS_URL": self.url("worker")})
        self.sweep = self.fleet.start_sweep(
            {"BROKER_REDIS_URL": self.url("sweep"), "BROKER_SWEEP_INTERVAL_MS": "300", "BROKER_SKEW_MS": "100"}
        )

    def command(self, *words: str | int) -> Any:
        """As the administrator."""
        return self.admin.execute_command(*words)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped

    def url(self, user: str) -> str:
        """Where a user logs in."""
        parts = urlsplit(self.server.url)
        return parts._replace(netloc=f"{user}:{user}-pw@{parts.netloc}").geturl()

    def client(self, user: str, factory: str | None = None, **options: Any) -> Client:
        return Client.connect(self.url(user), factory_id=factory or user, wire="intake", **options)

    def as_user(self, user: str) -> redis.Redis:
        return redis.Redis.from_url(self.url(user))

    def denied(self) -> list[tuple[str, str]]:
        """What the server has refused to whom, since the last look."""
        log = cast(list[dict[str, Any]], self.admin.acl_log())
        self.admin.acl_log_reset()
        return [(_text(entry["username"]), _text(entry["object"])) for entry in log]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
