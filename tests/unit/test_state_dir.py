"""The state folder is private, and says truthfully whether a fleet runs in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from datastore import connect
from tests.processes import end, start_python
from workers.children import STATUS_FILE, ChildStatus, read_statuses
from workers.process_identity import ProcessIdentity
from workers.state_dir import LOG_BYTES_MAX, Endpoint, StateDir, StateDirError


def endpoint_of(identity: ProcessIdentity) -> Endpoint:
    return Endpoint("unix:///x", "sqlite:///y", identity.pid, identity.started, 1)


def test_the_folder_and_its_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    state = StateDir.at(tmp_path / "open")
    state.write_endpoint(endpoint_of(ProcessIdentity.own()))
    assert state.path.stat().st_mode & 0o777 == 0o700
    assert (state.path / "up.json").stat().st_mode & 0o777 == 0o600
    assert state.log_dir.stat().st_mode & 0o777 == 0o700


def test_a_log_that_has_grown_long_is_put_aside_when_it_is_opened(tmp_path: Path) -> None:
    state = StateDir.at(tmp_path / "state")
    log, before = state.log_dir / "worker-1.log", state.log_dir / "worker-1.log.1"
    for text in (b"one\n", b"two\n"):
        with state.open_log("worker-1") as file:
            file.write(text)
    assert (log.read_bytes(), before.exists()) == (b"one\ntwo\n", False)
    os.truncate(log, LOG_BYTES_MAX + 1)
    with state.open_log("worker-1") as file:
        file.write(b"three\n")
    assert (log.read_bytes(), before.stat().st_size) == (b"three\n", LOG_BYTES_MAX + 1)
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_others_use_is_refused_and_not_changed(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o755)
    (tmp_path / "shared" / "theirs").write_text("")
    with pytest.raises(StateDirError, match="--state-dir"):
        StateDir.at(tmp_path / "shared")
    assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o755


def test_to_look_at_a_folder_makes_none_and_refuses_the_same(tmp_path: Path) -> None:
    assert not StateDir.found(tmp_path / "none" / "yet").path.parent.exists()
    (tmp_path / "shared").mkdir(mode=0o755)
    assert StateDir.found(tmp_path / "shared").path.stat().st_mode & 0o777 == 0o755
    (tmp_path / "shared" / "theirs").write_text("")
    with pytest.raises(StateDirError, match="--state-dir"):
        StateDir.found(tmp_path / "shared")


@pytest.mark.parametrize("name", ["with a space", "per%20cent?#"])
def test_the_datastore_stands_in_the_folder_whatever_its_name(tmp_path: Path, name: str) -> None:
    state = StateDir.at(tmp_path / name)
    connect(state.datastore_url).close()
    assert (state.path / "broker.db").exists()


def test_a_relative_folder_is_made_where_the_caller_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert StateDir.at().path == tmp_path / ".broker"


def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirError, match="--state-dir"):
        StateDir.at(tmp_path / "file" / "broker")


def test_a_fleet_runs_while_its_supervisor_lives(tmp_path: Path) -> None:
    state = StateDir.at(tmp_path)
    assert state.running() is None
    child = start_python("input()")
    identity = ProcessIdentity.of(child.pid)
    assert identity is not None
    state.write_endpoint(endpoint_of(identity))
    assert state.running() == endpoint_of(identity)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert state.running() is None, "a zombie was taken for a supervisor"
    end(child)
    assert state.running() is None
    assert state.endpoint() == endpoint_of(identity), "the file itself is still readable"


def test_a_reused_pid_is_not_taken_for_the_supervisor(tmp_path: Path) -> None:
    state = StateDir.at(tmp_path)
    state.write_endpoint(endpoint_of(ProcessIdentity(os.getpid(), "1")))
    assert state.running() is None


UP = b'{"redis_url": "r", "datastore_url": "d", "supervisor_pid": 7, "supervisor_started": "1", "started_ms": 3'
CHILD = b'[{"name": "a", "pid": 7, "started": "1", "restarts": 0, "last_exit": null, "up_since_ms": 3'
GARBAGE = (b"", b"{", b"[]", b"[1]", b'{"redis_url": "unix:///x"}', b'[{"name": "a"}]', b"\xff", b"[" * 200_000)


@pytest.mark.parametrize("content", [*GARBAGE, UP, UP.replace(b"7", b'"seven"') + b"}"])
def test_an_unreadable_endpoint_file_means_no_fleet(tmp_path: Path, content: bytes) -> None:
    state = StateDir.at(tmp_path)
    state.write("up.json", content)
    assert state.running() is None


@pytest.mark.parametrize("content", [*GARBAGE, CHILD, CHILD.replace(b"7", b'"seven"') + b"}]"])
def test_an_unreadable_list_of_children_is_one_of_none(tmp_path: Path, content: bytes) -> None:
    state = StateDir.at(tmp_path)
    state.write(STATUS_FILE, content)
    assert read_statuses(state) == []


def test_what_a_newer_release_has_added_to_them_is_passed_over(tmp_path: Path) -> None:
    state = StateDir.at(tmp_path)
    state.write("up.json", UP + b', "added": [1]}')
    state.write(STATUS_FILE, CHILD + b', "added": [1]}]')
    assert state.endpoint() == Endpoint("r", "d", 7, "1", 3)
    assert read_statuses(state) == [ChildStatus("a", 7, "1", 0, None, 3)]


def test_a_folder_has_one_supervisor(tmp_path: Path) -> None:
    state = StateDir.at(tmp_path)
    with state.supervised():
        assert state.supervisor() == ProcessIdentity.own()
        with pytest.raises(StateDirError, match="broker down"), state.supervised():
            pass
        assert state.supervisor() == ProcessIdentity.own(), "the refused one wrote over the first"
    assert state.supervisor() is None
    with state.supervised():
        pass


def test_the_supervisor_lock_is_not_inherited_by_its_children(tmp_path: Path) -> None:
    state = StateDir.at(tmp_path)
    with state.supervised():
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with state.supervised():
        pass
    child.communicate(b"\n")


def test_a_supervisor_knows_that_its_folder_was_removed_also_where_another_is_in_its_place(tmp_path: Path) -> None:
    state = StateDir.at(tmp_path / "state")
    with state.supervised() as stands:
        assert stands()
        shutil.rmtree(state.path)
        assert not stands()
        with StateDir.at(state.path).supervised() as others:
            assert (stands(), others()) == (False, True)
