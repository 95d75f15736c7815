"""Settings of every broker process: `BROKER_*` variables, secrets from files, relations validated once."""

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

PREFIX = "BROKER_"
Ms = Annotated[int, Field(gt=0, le=86_400_000)]


def _known_level(name: str) -> str:
    known = logging.getLevelNamesMapping()
    if name.upper() not in known:
        raise ValueError(f"{name!r} is none of {', '.join(known)}")
    return name


class SettingsError(Exception):
    """The settings can't be used; the message names the variable and what to do."""


class Settings(BaseSettings):
    """Read once at start, frozen. A field is `BROKER_<NAME>`, or the content of the file `BROKER_<NAME>_FILE` names.

    A variable that is empty is one that is not set, as a shell or a Compose file leaves it.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")

    redis_url: str | None = None
    """None: the embedded server of the state folder."""
    redis_password: SecretStr | None = None
    """Given to Redis where the URL has no password, so that none stands in a command line."""
    datastore_url: str | None = None
    """None: SQLite in the state folder."""
    cosmos_key: SecretStr | None = None
    """None: Microsoft Entra through azure-identity."""
    signing: Literal["off", "optional", "required"] = "off"
    """Whether workers take signed requests: none, beside unsigned ones (while keys are handed out), or no others."""
    signing_secret: SecretStr | None = None
    """What every key is derived from, for broker processes and `broker key` alone. None: the state folder's."""
    key: SecretStr | None = None
    """A factory's own key, one line, as `broker key new` wrote it. None: nothing is signed."""
    state_dir: Path = Path(".broker")
    log_level: Annotated[str, AfterValidator(_known_level)] = "INFO"

    factory: str | None = None
    """The default of `--factory`."""
    wire: Literal["rq", "intake"] = "rq"
    """How clients submit: `rq` jobs, or plain JSON on the `intake`, which least-privilege factories must use."""

    ttl_ms: Ms = 60_000
    skew_ms: Annotated[int, Field(ge=0, le=60_000)] = 2_000
    cancel_grace_ms: Ms = 30_000
    backoff_base_ms: Ms = 1_000
    backoff_max_ms: Ms = 300_000
    ageing_step_ms: Annotated[int, Field(ge=1_000, le=86_400_000)] = 600_000
    """How long a job waits to be served like one that just came with a priority one higher; see docs/matching.md."""
    sweep_interval_ms: Ms | None = None
    """None: a quarter of the ttl."""
    batch_max: Annotated[int, Field(ge=1, le=256)] = 64
    """Requests settled together; 64 was measured best (issue 4)."""
    queue_max: Annotated[int, Field(ge=100, le=10_000_000)] = 100_000
    """Requests a list of a queue may hold; what comes on top is answered `throttled`. Some ten seconds of work."""
    waiting_max: Annotated[int, Field(ge=1, le=1_000_000)] = 1_024
    """Claims of one factory that may wait at once, about; what comes on top is answered `throttled`. Some 1 KB each."""
    takeover_ms: Annotated[int, Field(ge=2_000, le=60_000)] = 6_000
    """A worker that has not been heard of for this long loses its in-flight requests to another."""

    faults: str | None = None
    """For tests: where this process kills itself, `POINT@N` (see `workers/fault_points.py`)."""
    faults_allowed: bool = False
    """Whether `faults` is meant; without it a process with `faults` does not start."""

    @model_validator(mode="after")
    def _relations(self) -> Self:
        if self.skew_ms >= self.ttl_ms:
            raise ValueError("BROKER_SKEW_MS must be below BROKER_TTL_MS: a lease would outlive itself")
        if self.backoff_base_ms > self.backoff_max_ms:
            raise ValueError("BROKER_BACKOFF_BASE_MS must not be above BROKER_BACKOFF_MAX_MS")
        if self.sweep_every_ms > self.ttl_ms:
            raise ValueError("BROKER_SWEEP_INTERVAL_MS must not be above BROKER_TTL_MS: dead leases would lie about")
        if self.faults is not None and not self.faults_allowed:
            raise ValueError("BROKER_FAULTS kills this process: unset it, or for a test set BROKER_FAULTS_ALLOWED=1")
        return self

    def password(self) -> str | Callable[[], str] | None:
        """The one for Redis. Where it came from a file, who reads that file again: it may be changed as this runs."""
        secret = self.redis_password
        return secret if secret is None or isinstance(secret, SecretFile) else secret.get_secret_value()

    @property
    def sweep_every_ms(self) -> int:
        """Time between two sweeps, before jitter."""
        return self.sweep_interval_ms or max(250, self.ttl_ms // 4)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then variables, then the files that `*_FILE` variables name."""
        return init_settings, env_settings, FileSource(settings_cls, os.environ)


class SecretFile(SecretStr):
    """What a file held, without the newline at its end. Called, what it holds now; or as before, where that is nothing.

    Raises:
      OSError, UnicodeDecodeError: (as it is made) it can't be read.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(_line(path))
        self._path = path.absolute()
        self._latest = self.get_secret_value()

    def __call__(self) -> str:
        with suppress(OSError, UnicodeDecodeError):  # it is being replaced, or is gone; a pipe is read once
            if not self._path.is_file():
                return self._latest
            self._latest = _line(self._path) or self._latest
        return self._latest


def _line(path: Path) -> str:
    return path.read_text(encoding="utf-8").rstrip("\r\n")


class FileSource(PydanticBaseSettingsSource):
    """`BROKER_X_FILE=/run/secrets/x` gives field `x` the content of the file, without the newline at its end."""

    def __init__(self, settings_cls: type[BaseSettings], environ: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self._environ = environ

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The value, the field's name, and that it needs no decoding."""
        variable = f"{PREFIX}{field_name.upper()}_FILE"
        path = self._environ.get(variable)
        if not path:
            return None, field_name, False
        try:
            secret = SecretStr in get_args(field.annotation)
            return (SecretFile if secret else _line)(Path(path)), field_name, False
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{variable}={path}: {error}; mount the secret or unset the variable") from error

    def __call__(self) -> dict[str, Any]:
        """All the fields that a file gives."""
        values = {name: self.get_field_value(info, name)[0] for name, info in self.settings_cls.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None}


def load(**overrides: Any) -> Settings:
    """The settings of this process; `overrides` come from the command line, None means not given.

    Raises:
      SettingsError: a value is out of its limits, contradicts another, or its file can't be read.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    if "signing" not in given and os.environ.get(f"{PREFIX}SIGNING") == "":  # a slip must not open the door
        raise SettingsError(f"{PREFIX}SIGNING is empty: say off, optional or required")
    try:
        return Settings(**given)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise SettingsError(", and ".join(_problem(item["loc"], item["msg"]) for item in found)) from error


def _problem(loc: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    return f"{PREFIX}{str(loc[0]).upper()}: {message}" if loc else message
