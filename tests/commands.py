"""`broker` commands, each in a process of its own: a fresh interpreter, or a fork of one that has imported it all."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from tempfile import TemporaryFile
from typing import Protocol

from tests.processes import end
from workers.leash import leashed

BROKER = (sys.executable, "-m", "workers.cli")
TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a command. A negative status is the signal that ended it."""

    status: int
    out: str
    err: str


class Run(Protocol):
    """Runs `broker ARGUMENTS` to its end."""

    def __call__(self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], input: str = "") -> Done: ...


def fresh(arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], input: str = "") -> Done:
    """As a shell does, in an interpreter of its own: half a second of start and imports, as a user waits for them."""
    done = subprocess.run(
        [*BROKER, *arguments], cwd=cwd, env=env, input=input, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    return Done(done.returncode, done.stdout, done.stderr)


@contextmanager
def running_commands(folder: Path) -> Iterator["Commands"]:
    """A process that runs commands until the end of the block. `folder` is for its socket."""
    address = str(folder / "commands.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        server = subprocess.Popen(
            leashed([sys.executable, "-m", "tests.command_server", str(listener.fileno())]),
            cwd=Path(__file__).parents[1],
            stdin=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            text=True,
        )
    yield Commands(address)
    end(server)


class Commands:
    """Where commands are run. The first one waits until everything is loaded."""

    def __init__(self, address: str) -> None:
        self._address = address

    def run(self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], input: str = "") -> Done:
        """In a fork of a process that has loaded everything, with files for its standard streams."""
        request = json.dumps({"arguments": arguments, "cwd": str(cwd), "env": dict(env)}).encode()
        with ExitStack() as stack:
            streams = [stack.enter_context(TemporaryFile("w+", encoding="utf-8")) for _ in range(3)]
            streams[0].write(input)
            streams[0].seek(0)
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.settimeout(TIMEOUT_S)
            connection.connect(self._address)
            socket.send_fds(connection, [len(request).to_bytes(4)], [stream.fileno() for stream in streams])
            connection.sendall(request)
            answers = stack.enter_context(connection.makefile("r", encoding="ascii"))
            command = int(answers.readline())
            try:
                status = int(answers.readline())
            except TimeoutError:
                os.kill(command, SIGKILL)
                raise AssertionError(f"broker {' '.join(arguments)} runs for more than {TIMEOUT_S} s") from None
            for stream in streams[1:]:
                stream.seek(0)  # of the command too: they share it
            return Done(status, streams[1].read(), streams[2].read())
