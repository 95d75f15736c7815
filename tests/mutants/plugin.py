"""A pytest plugin that breaks the product: the module of one mutant is loaded with its patch, and with nothing else.

`pytest -p tests.mutants.plugin --mutant "etag ignored" tests/…`; tests that pass have not noticed.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from types import CodeType, ModuleType

import pytest

from tests.mutants.catalogue import MUTANTS, Mutant, NotApplied


class _Patched(SourceFileLoader):
    """Loads a module's source with a mutant's patch; never from, or into, compiled files."""

    def __init__(self, mutant: Mutant, path: str) -> None:
        super().__init__(mutant.module, path)
        self._mutant = mutant

    def get_code(self, _fullname: str) -> CodeType:
        source = self.get_data(self.path).decode()
        return compile(self._mutant.applied(source), self.path, "exec")


class _Finder(MetaPathFinder):
    """Finds the one module that is broken."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._mutant.module:
            return None
        found = PathFinder.find_spec(fullname, path)
        assert found is not None, f"{fullname} is gone"
        assert found.origin is not None, f"{fullname} has no source"
        return spec_from_file_location(fullname, found.origin, loader=_Patched(self._mutant, found.origin))


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that names a mutant."""
    parser.addoption("--mutant", required=True, choices=[mutant.name for mutant in MUTANTS])


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Break the module before anything of the product is imported."""
    [mutant] = [each for each in MUTANTS if each.name == early_config.known_args_namespace.mutant]
    if mutant.module in sys.modules:
        raise NotApplied(f"{mutant.name}: {mutant.module} was loaded before it could be broken")
    sys.meta_path.insert(0, _Finder(mutant))
