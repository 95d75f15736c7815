"""The secrets of signing as files: readable by their owner only, and never written over."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from broker.keyring import Masters
from broker.settings import Settings
from workers.runtime import SIGNING_FILE, StartError, signing_masters
from workers.state_dir import StateDir


def masters_made(settings: Settings, *, made: Callable[[Path], None]) -> Masters:
    """The signing secret; where none is set and none is in the state folder, one is made there, and `made` told.

    Raises:
      StartError: what there is can't be used, or none can be written.
    """
    masters = signing_masters(settings)
    if masters is None:
        path = StateDir.at(settings.state_dir).path / SIGNING_FILE
        _write_new(path, f"{secrets.token_hex(32)}\n")
        made(path)
        masters = signing_masters(settings)
        assert masters is not None, "it was written just now"
    return masters


def write_key(path: str, text: str) -> None:
    """Write a key file.

    Raises:
      StartError: it exists, or can't be written.
    """
    _write_new(Path(path).expanduser(), text)


def _write_new(path: Path, text: str) -> None:
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(text)
    except FileExistsError as error:
        raise StartError(f"{path}: {error.strerror}; name a file that does not exist yet") from error
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}; name a file in a folder that this user may write") from error
