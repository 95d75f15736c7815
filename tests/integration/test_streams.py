"""Commands whose standard streams are not what they hoped for."""

import os
import subprocess
from pathlib import Path

import pytest

from broker.cli.exits import Exit
from tests.commands import BROKER

ROOT = Path(__file__).parents[2]


def shell(command: str, folder: Path, **environ: str) -> tuple[int, str]:
    """Exit status of a line of sh in which `$BROKER` is the command, and its standard error."""
    done = subprocess.run(
        ["sh", "-c", command.replace("$BROKER", " ".join(f"'{word}'" for word in BROKER))],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


def test_a_command_whose_output_is_closed_does_its_work(tmp_path: Path) -> None:
    assert shell("$BROKER acl --role worker >&-", tmp_path) == (Exit.DONE, "")


def test_a_command_whose_input_is_closed_finds_it_empty(tmp_path: Path) -> None:
    status, told = shell("$BROKER submit - <&-", tmp_path)
    assert status == Exit.REFUSED
    assert told.startswith("<stdin>:1: is empty")


def test_a_command_whose_errors_go_nowhere_still_has_its_status(tmp_path: Path) -> None:
    assert shell("$BROKER jobs 2>&-", tmp_path) == (Exit.REFUSED, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
@pytest.mark.parametrize("command", ["acl --role worker", "jobs --json", "--help"])
def test_a_full_disk_is_told_in_a_sentence(command: str, tmp_path: Path) -> None:
    status, told = shell(f"$BROKER {command} > /dev/full", tmp_path)
    assert status == Exit.REFUSED
    assert told.splitlines() == [
        "error: can't write: No space left on device",
        "next: make room; what was asked for may have been done",
    ]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_locale_of_few_characters_gets_escapes(encoding: str, tmp_path: Path) -> None:
    assert shell("$BROKER exec --help", tmp_path, PYTHONIOENCODING=encoding) == (Exit.DONE, "")
