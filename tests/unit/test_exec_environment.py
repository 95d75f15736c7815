"""A command that runs a job sees none of the broker's secrets."""

import typing

import pytest
from pydantic import SecretStr

from broker.exec.environment import SECRETS, without_secrets
from broker.settings import PREFIX, Settings


def test_every_setting_that_is_a_secret_is_kept_from_a_command() -> None:
    secret = {
        f"{PREFIX}{name.upper()}"
        for name, field in Settings.model_fields.items()
        if SecretStr in (field.annotation, *typing.get_args(field.annotation))
    }
    assert secret == SECRETS


def test_a_command_sees_everything_else() -> None:
    environ = {"PATH": "/bin", "BROKER_KEY_FILE": "/run/secrets/key", "BROKER_TTL_MS": "1"}
    assert without_secrets(environ | dict.fromkeys(SECRETS, "hush")) == environ


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("rediss://:hush@host:6380/1?ssl_cert_reqs=required", "rediss://host:6380/1?ssl_cert_reqs=required"),
        ("redis://factory-7:hush@host", "redis://factory-7@host"),
        ("redis://user:hu@sh@host", "redis://user@host"),
        ("redis://host/1?password=hush&protocol=3", "redis://host/1?protocol=3"),
        ("rediss://host/1?ssl_password=hush&protocol=3", "rediss://host/1?protocol=3"),
        ("redis://host/1?pass%77ord=hush", "redis://host/1"),
        ("unix:///tmp/redis.sock?password=hush&db=1", "unix:///tmp/redis.sock?db=1"),
        ("unix:///tmp/redis.sock", "unix:///tmp/redis.sock"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://[:hush@host", ""),
    ],
)
def test_a_url_is_handed_on_without_its_password(url: str, seen: str) -> None:
    assert without_secrets({"BROKER_REDIS_URL": url}) == {"BROKER_REDIS_URL": seen}
