"""The product's source as syntax trees, for tests about its structure."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("datastore", "broker", "workers")
"""From the innermost layer to the outermost."""


@dataclass(frozen=True, slots=True)
class Module:
    """One file of a package."""

    path: Path
    tree: ast.Module

    @property
    def name(self) -> str:
        """Its path from the root, as one reads it in a message."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def package(self) -> str:
        """The top-level package it belongs to."""
        return self.path.relative_to(ROOT).parts[0]

    def imports(self) -> Iterator[str]:
        """Every module it imports, also inside functions."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                yield node.module

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Every function and method."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node

    def calls(self) -> Iterator[str]:
        """Every call of a dotted name, such as `time.time`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func)


def modules(*packages: str) -> list[Module]:
    """Every module of the packages, all of them where none is named."""
    paths = [path for package in packages or PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [_parsed(path) for path in paths]


@cache
def _parsed(path: Path) -> Module:
    """Once for each process: hundreds of tests look at the same files."""
    return Module(path, ast.parse(path.read_text(encoding="utf-8")))
