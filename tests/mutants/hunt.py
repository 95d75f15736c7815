"""Runs the named tests of mutants on them, each in a process of its own, and says which test noticed."""

import os
import re
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from tests.mutants.catalogue import Mutant

ROOT = Path(__file__).parents[2]
SOME_FAILED = 1
"""The exit status of pytest that says: the tests ran, and not all of them passed. No other status is a catch."""
PRELOADED = ["pytest", "_pytest.terminal", "pydantic", "redis", "structlog", "azure.cosmos"]
"""What every run needs, loaded once; nothing of the product, which each mutant loads in its own way."""


@dataclass(frozen=True, slots=True)
class Hunt:
    """What became of a mutant. `caught_by`: the first test that failed on it."""

    mutant: Mutant
    caught_by: str | None
    output: str


def hunt(mutants: Sequence[Mutant]) -> list[Hunt]:
    """Run the named tests of each mutant up to the first that fails.

    One that passes all of them has survived, and so has one whose patch or tests are not there: see `output`.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, max_tasks_per_child=1) as pool:
        return [Hunt(mutant, *found) for mutant, found in zip(mutants, pool.map(_run, mutants), strict=True)]


def _run(mutant: Mutant) -> tuple[str | None, str]:
    """In a process that has loaded nothing of the product: the test that failed, and what pytest said."""
    import pytest

    os.chdir(ROOT)
    options = ["-p", "tests.mutants.plugin", "--mutant", mutant.name, "--noconftest", "-p", "no:cacheprovider"]
    with tempfile.TemporaryFile("w+") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        status = pytest.main(["-x", "-q", "--tb=line", "-rf", "-p", "no:xdist", *options, *mutant.caught_by])
        said.seek(0)
        output = said.read()
    failed = re.search(r"^FAILED (\S+?::.+?)(?: - .*)?$", output, re.MULTILINE)
    return (failed[1] if failed is not None and status == SOME_FAILED else None), output
