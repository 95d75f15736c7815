"""Where the emulator is missing, a developer is told and CI is stopped."""

import pytest

from tests.cosmos.emulator import running_emulator


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_without_node_tests_skip_at_home_and_fail_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="make emulator"), running_emulator():
        pass
