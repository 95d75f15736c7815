"""What `make` promises a newcomer."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAKE = ("make", "--no-print-directory")
STEPS = {"emulator", "help"}
"""Targets that others need, and this list itself."""


def said(*arguments: str) -> str:
    return subprocess.run([*MAKE, *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout


def test_every_target_is_in_the_help() -> None:
    [targets] = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    assert set(targets.split()) - STEPS == set(re.findall(r"\bmake ([a-z-]+)(?=[ :;])", said("help")))


def test_clean_leaves_the_jobs_of_a_fleet_alone() -> None:
    assert ".venv" in said("--dry-run", "clean")
    assert ".broker" not in said("--dry-run", "clean")
