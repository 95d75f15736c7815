"""A state folder that others may have written is not obeyed: no command asks the Redis that it names, nor stops a
process.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from socket import create_server, socket
from subprocess import Popen

import pytest

from broker import private_folder
from broker.cli import run
from tests.processes import end, start_python
from workers.cli.app import build_app
from workers.process_identity import ProcessIdentity
from workers.state_dir import Endpoint

COMMANDS = (["jobs", "--timeout", "1"], ["status"], ["down"], ["doctor"], ["claim"], ["exec", "--", "true"])
FACTORY = ["claim", "exec"]


@dataclass(frozen=True)
class Trap:
    """A state folder that names a Redis, which would be sent the password, and a process, which would be stopped."""

    folder: Path
    server: socket
    victim: "Popen[str]"

    def was_stepped_in(self) -> bool:
        """Whether a command has gone to that Redis, or stopped that process."""
        try:
            self.server.accept()[0].close()
        except BlockingIOError:
            return self.victim.poll() is not None
        return True


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trap]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BROKER_REDIS_PASSWORD", "secret")
    folder = tmp_path / ".broker"
    folder.mkdir(mode=0o700)
    with ExitStack() as stack:
        victim = start_python("import signal; signal.pause()")
        stack.callback(end, victim)
        server = stack.enter_context(create_server(("127.0.0.1", 0)))
        server.setblocking(False)
        identity = ProcessIdentity.of(victim.pid)
        assert identity is not None
        redis_url = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        endpoint = Endpoint(redis_url, "sqlite:////nowhere", identity.pid, identity.started, 1)
        (folder / "up.json").write_text(json.dumps(asdict(endpoint)))
        (folder / "up.lock").write_text(f"{identity.pid} {identity.started}")
        yield Trap(folder, server, victim)


def told(command: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says, which must fail."""
    options = ["--factory", "f"] if command[0] in FACTORY else []
    assert run(build_app(), [command[0], *options, *command[1:]]) != 0
    captured = capsys.readouterr()
    return captured.out + captured.err


def of_another_user(_folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    return "belongs to another user"


def open_to_others(folder: Path, _monkeypatch: pytest.MonkeyPatch) -> str:
    folder.chmod(0o755)
    return "is open to others"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("foreign", [of_another_user, open_to_others])
def test_a_folder_that_others_may_have_written_is_refused_and_not_obeyed(
    trap: Trap,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: Sequence[str],
    foreign: Callable[[Path, pytest.MonkeyPatch], str],
) -> None:
    why = foreign(trap.folder, monkeypatch)
    text = " ".join(told(command, capsys).split())
    assert why in text
    assert "--state-dir" in text
    assert not trap.was_stepped_in()


@pytest.mark.parametrize("command", [["jobs", "--timeout", "1"], ["down"]], ids=" ".join)
def test_were_it_not_looked_at_it_would_be_obeyed(
    trap: Trap,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: Sequence[str],
) -> None:
    """The twin of the test above."""
    open_to_others(trap.folder, monkeypatch)
    for user in ("broker.cli.session", "workers.state_dir"):
        monkeypatch.setattr(f"{user}.is_private", lambda _folder: True)
    run(build_app(), command)
    capsys.readouterr()
    assert trap.was_stepped_in()


def test_an_empty_folder_that_is_open_is_somebodys_mistake_and_no_danger(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert not private_folder.is_private(tmp_path)
