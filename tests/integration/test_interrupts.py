"""Ctrl-C while a command is still loading what it needs: half of what a short command lasts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker.cli.exits import Exit

ROOT = Path(__file__).parents[2]
INTERRUPTED_AT = """
import os, signal, sys
from importlib.abc import MetaPathFinder

class Interrupt(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = ["broker", *{arguments!r}]
from workers.cli import main
main()
"""
"""A user who presses Ctrl-C just as this module is looked for."""


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("typer", ["jobs"]),
        ("pydantic_core", ["jobs"]),  # it swallows what is raised in its callbacks
        ("broker.client", ["jobs"]),
        ("broker.agent", ["agent", "--factory", "f", "--", "true"]),
    ],
)
def test_ctrl_c_while_a_command_loads_ends_it_without_a_word(module: str, arguments: list[str], tmp_path: Path) -> None:
    script = INTERRUPTED_AT.format(module=module, arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (Exit.INTERRUPTED, "", "")
