"""The structure of the product: one way of dependencies, small modules, one place for each outside thing."""

import ast
import subprocess

import pytest

from tests.architecture.source import PACKAGES, ROOT, Module, modules

MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
CLOCKS = {"time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.sleep", "datetime.now"}
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
TOP_LEVEL = {
    ".ci",
    ".dockerignore",
    ".gitignore",
    "CHANGELOG.md",
    "Dockerfile",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "benchmarks",
    "broker",
    "datastore",
    "docker-compose.yml",
    "docs",
    "examples",
    "pyproject.toml",
    "tests",
    "workers",
}


def ids(found: Module) -> str:
    return found.name


@pytest.mark.parametrize("module", modules(), ids=ids)
def test_a_module_imports_its_own_layer_and_those_below(module: Module) -> None:
    above = PACKAGES[PACKAGES.index(module.package) + 1 :]
    assert [name for name in module.imports() if name.split(".")[0] in above] == []


@pytest.mark.parametrize("module", modules(), ids=ids)
def test_a_module_fits_on_a_few_screens_and_says_why_it_exists(module: Module) -> None:
    assert len(module.path.read_text(encoding="utf-8").splitlines()) <= MODULE_LINES_MAX
    assert ast.get_docstring(module.tree), "a module's docstring says why it exists"
    assert module.path.stem not in VAGUE_NAMES


@pytest.mark.parametrize("module", modules(), ids=ids)
def test_a_function_fits_on_one_screen(module: Module) -> None:
    lengths = {function.name: (function.end_lineno or 0) - function.lineno + 1 for function in module.functions()}
    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES_MAX} == {}


def test_azure_is_imported_by_the_cosmos_provider_alone() -> None:
    found = {module.name for module in modules() if any(name.split(".")[0] == "azure" for name in module.imports())}
    assert found
    assert all(name.startswith("datastore/cosmos") for name in found)


def test_rq_is_imported_by_the_workers_alone() -> None:
    found = {module.package for module in modules() if any(name.split(".")[0] == "rq" for name in module.imports())}
    assert found == {"workers"}


def test_time_is_asked_for_in_one_place() -> None:
    found = {(module.name, call) for module in modules() for call in module.calls() if call in CLOCKS}
    assert {name for name, _ in found} == {"broker/clock.py"}


def test_the_first_value_of_a_struct_is_asked_for_in_one_place() -> None:
    # Elsewhere only while a module is imported, which one thread does.
    direct = [
        f"{module.name} {function.name}"
        for module in modules()
        if module.name != "datastore/decoding.py"
        for function in module.functions()
        for call in ast.walk(function)
        if isinstance(call, ast.Call)
        if ast.unparse(call.func).endswith(("msgspec.convert", "json.Decoder"))
        or any(keyword.arg == "type" and ast.unparse(call.func).endswith("json.decode") for keyword in call.keywords)
    ]
    assert direct == []


def test_rules_and_stores_know_nothing_of_redis() -> None:
    pure = [*modules("datastore"), *(found for found in modules("broker") if found.path.parent.name == "transitions")]
    assert [module.name for module in pure if any(name.split(".")[0] == "redis" for name in module.imports())] == []


def test_an_init_file_holds_no_code() -> None:
    for module in modules():
        if module.path.name != "__init__.py":
            continue
        allowed = (ast.Import, ast.ImportFrom, ast.Expr, ast.Assign)
        assert all(isinstance(node, allowed) for node in module.tree.body), module.name


def test_the_top_level_holds_what_it_should_and_nothing_else() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = {line.split("/")[0] for line in tracked.splitlines()}
    assert found <= TOP_LEVEL
