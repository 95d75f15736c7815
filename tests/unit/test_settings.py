"""Settings as they come from the environment."""

from pathlib import Path

import pytest

from broker.settings import Settings, SettingsError, load


def test_whether_requests_are_signed_is_not_guessed_from_an_empty_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_SIGNING", "")
    with pytest.raises(SettingsError, match="off, optional or required"):
        load()
    assert load(signing="required").signing == "required"


def test_a_variable_that_is_empty_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    unset = load()
    for name in Settings.model_fields.keys() - {"signing"}:
        monkeypatch.setenv(f"BROKER_{name.upper()}", "")
        monkeypatch.setenv(f"BROKER_{name.upper()}_FILE", "")
    assert load() == unset
    assert unset.state_dir == Path(".broker")


def test_a_file_that_can_not_be_read_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BROKER_KEY_FILE", str(tmp_path))
    with pytest.raises(SettingsError, match=r"BROKER_KEY_FILE=.*Is a directory.*unset the variable"):
        load()
