"""A command that runs a job sees none of the broker's secrets."""

import typing
from collections.abc import Callable

import pytest
from pydantic import SecretStr

from broker.exec.environment import SECRETS, URLS, without_secrets
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


@pytest.mark.parametrize("cased", [str.lower, str.title])
def test_what_is_read_as_a_setting_is_kept_from_a_command_in_whatever_case_it_stands(
    monkeypatch: pytest.MonkeyPatch, cased: Callable[[str], str]
) -> None:
    secrets = {cased(name): "0123456789abcdef" * 4 for name in SECRETS}
    urls = {cased(name): "redis://factory-7:hush@host" for name in URLS}
    with monkeypatch.context() as patch:
        for name, value in {**secrets, **urls}.items():
            patch.setenv(name, value)
        password = Settings().redis_password
    assert password is not None
    assert password.get_secret_value() == "0123456789abcdef" * 4
    assert without_secrets(secrets | urls) == dict.fromkeys(urls, "redis://factory-7@host")


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
