"""A URL names a store, and a wrong one says what a right one looks like."""

from pathlib import Path

import pytest

from datastore import Ok, connect
from datastore.memory import MemoryDatastore


@pytest.mark.parametrize("name", ["jobs.db", "a b/jobs.db", "100%/jobs.db", "ünï/jobs.db"])
def test_an_absolute_sqlite_path_may_hold_anything_percent_encoded(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    quoted = name.replace("%", "%25").replace(" ", "%20")
    store = connect(f"sqlite:///{tmp_path}/{quoted}")
    assert isinstance(store.create("job", "job", {}), Ok)
    store.close()
    assert (tmp_path / name).is_file()


def test_three_slashes_are_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "state").mkdir()
    connect("sqlite:///state/jobs.db").close()
    assert (tmp_path / "state" / "jobs.db").is_file()


def test_a_relative_store_stays_the_same_file_when_the_process_changes_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = connect("sqlite:///jobs.db")
    monkeypatch.chdir("/")
    assert isinstance(store.create("job", "job", {}), Ok)
    store.close()
    assert (tmp_path / "jobs.db").is_file()


def test_memory_is_memory() -> None:
    assert isinstance(connect("memory://"), MemoryDatastore)


@pytest.mark.parametrize("url", ["postgres://host/db", "jobs.db", "", "memory", "sqlite:/jobs.db"])
def test_an_unknown_scheme_names_the_three(url: str) -> None:
    with pytest.raises(ValueError, match=r"memory://, sqlite:///path or cosmos://"):
        connect(url)


@pytest.mark.parametrize("url", ["memory://jobs", "sqlite://jobs.db", "sqlite://", "sqlite:///", "sqlite:///a%00b"])
def test_a_url_that_does_not_fit_its_scheme_is_a_value_error(url: str) -> None:
    with pytest.raises(ValueError, match=r"memory://|sqlite:///"):
        connect(url)


def test_sqlites_own_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="memory://"):
        connect("sqlite:///:memory:")
