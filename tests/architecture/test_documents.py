"""What the documents point to is there: files, headings, commands and their options, settings and their defaults."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from broker.documents import Lease, Run
from broker.listing import ALWAYS_SAID, HOLDERS_OWN
from broker.settings import PREFIX, Settings
from tests.architecture.source import ROOT
from workers.cli.app import build_app

DOCUMENTS = sorted([ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")])
FOR_ALL = {"--factory", "--help", "--json", "--redis", "--request-id", "--state-dir", "--timeout"}
"""Told once for all commands."""


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


def headings(document: Path) -> set[str]:
    """The anchors of a document, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        to = document.parent / path if path else document
        assert to.exists(), target
        assert not anchor or anchor in headings(to), target


def commands() -> dict[str, set[str]]:
    """The options of each command, by its name."""
    found: dict[str, set[str]] = {}

    def look(command: Any, names: tuple[str, ...]) -> None:
        for each, inner in getattr(command, "commands", {}).items():
            look(inner, (*names, each))
        if not hasattr(command, "commands"):
            found[" ".join(names)] = {option for each in command.params for option in each.opts}

    look(typer.main.get_command(build_app()), ())
    return found


def told() -> dict[str, set[str]]:
    """The options that docs/cli.md names beside each command, whose synopsis may go on in the next line."""
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    text = re.sub(r"\n {10,}", " ", text)
    known = commands()
    found: dict[str, set[str]] = {}
    for line in re.findall(r"(?:^|`|### |, )broker ([a-z][^`\n]*)", text, re.MULTILINE):
        words: list[str] = line.split()
        first, second = (*words, "")[:2]
        for command in [first] if first in known else [f"{first} {each}" for each in second.split("|")]:
            found.setdefault(command, set()).update(re.findall(r"--[a-z][a-z-]+", line))
    return found


def test_the_command_line_is_told_as_it_is() -> None:
    known, said = commands(), told()
    assert sorted(known.keys() - said.keys()) == [], "commands that nobody is told of"
    wrong = {each: options - known.get(each, set()) for each, options in said.items() if each in known}
    assert {each: options for each, options in wrong.items() if options} == {}, "options that there are not"
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    options = {option for each in known.values() for option in each if option.startswith("--")} - FOR_ALL
    assert sorted(option for option in options if f"{option}" not in text) == [], "options that nobody is told of"


def test_the_help_of_every_option_says_what_it_takes_and_durations_are_in_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    app, silent = build_app(), []
    for name in commands():
        shown = CliRunner().invoke(app, [*name.split(), "--help"]).output.partition(" Options ")[2]
        lines = [line.strip("│ ") for line in shown.splitlines()]
        silent += [f"{name} {line}" for line in lines if re.search(r"<(bool|int|str|float)|^[-\w, ]+ S  ", line)]
    assert silent == []


def fields_told_of(command: str) -> set[str]:
    """The fields of a listing's `--json`, as docs/cli.md has them in its table."""
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    [row] = re.findall(rf"^\| `{command}` \| (.*) \|$", text, re.MULTILINE)
    return {field for names in re.findall(r"`([^`]+)`", row) for field in re.findall(r"\w+", names)}


def test_the_fields_of_listings_are_told_as_they_are() -> None:
    stored = {"id", "rev", "etag"}
    leases = {"job_id", "queue", "remaining_ms", *Lease.__struct_fields__} - HOLDERS_OWN
    assert fields_told_of("leases") == leases
    assert fields_told_of("runs") == stored | set(Run.__struct_fields__)
    assert fields_told_of("jobs") == stored | ALWAYS_SAID.keys() | {"queue", "state", "lease"}


def test_the_settings_are_told_with_their_defaults() -> None:
    text = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    rows = [line.split(" | ")[:2] for line in text.splitlines() if line.startswith(f"| `{PREFIX}")]
    defaults: dict[str, str] = {}
    for variables, values in rows:
        names, each = re.findall(rf"`{PREFIX}(\w+)`", variables), values.strip().split(", ")
        defaults |= dict(zip(names, each if len(each) == len(names) else each * len(names), strict=False))
    assert {field.upper() for field in Settings.model_fields} == set(defaults)
    for field, info in Settings.model_fields.items():
        said = defaults[field.upper()].strip("`")
        assert said == str(info.default) or info.default in (None, False), field
