"""Starts a command in its leash, and hears from the leash where the command could not be started."""

import errno
import os
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING

from workers.leash import BEGUN, WATCHES, leashed

if TYPE_CHECKING:
    import subprocess


def start_leashed(
    argv: Sequence[str],
    *,
    stdin: IO[bytes],
    stdout: IO[bytes] | int | None,
    env: Mapping[str, str],
    process_group: int,
    watch: bool = WATCHES,
) -> "subprocess.Popen[bytes]":
    """As `subprocess.Popen`, for a command that ends with this process. From a thread that stays as long.

    Raises:
      OSError: it can't be started, which its exit status could not tell from what a command says itself.
    """
    import subprocess  # every command of the CLI loads this file, and few start a process

    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as told:
        try:
            process = subprocess.Popen(
                leashed(argv, report=writing, watch=watch),
                stdin=stdin,
                stdout=stdout,
                env=env,
                process_group=process_group,
                pass_fds=(writing,),
            )
        finally:
            os.close(writing)
        said = told.read()  # up to the end, which comes as the command takes the leash's place
    if said == BEGUN:
        return process
    with process:
        status = process.wait()
    if not said.startswith(BEGUN):
        raise OSError(errno.ECHILD, f"its leash ended with {status} before it", argv[0])
    code = int(said.removeprefix(BEGUN))
    raise OSError(code, os.strerror(code), argv[0])
