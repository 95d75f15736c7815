"""docker-compose.yml as data, and its services as local processes: the same commands, the environment mapped."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.processes import end, start

ROOT = Path(__file__).parent.parent
COMPOSE_FILE = ROOT / "docker-compose.yml"
_IMAGE_ONLY = re.compile(r"valkey:6379|/data/|localhost:8081")
"""What only means something inside a container. None of it may reach a local process."""


def services(path: Path = COMPOSE_FILE) -> dict[str, dict[str, Any]]:
    """Every service of a compose file, anchors and merges resolved."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))["services"]
    return found


def argv(command: list[str]) -> list[str]:
    """A command as the container gets it: Compose takes `$$` for a dollar sign."""
    assert not re.search(r"(?<!\$)\$(?!\$)", " ".join(command)), "no variable of Compose's own is used in commands"
    return [part.replace("$$", "$") for part in command]


@dataclass(slots=True)
class LocalCompose:
    """Runs services here. `mapping` turns what only a container knows into what is here, in environments alone."""

    mapping: Mapping[str, str]
    folder: Path
    _processes: list["subprocess.Popen[str]"] = field(default_factory=list)

    def environment(self, service: Mapping[str, Any], *, host: str) -> dict[str, str]:
        """The service's own variables, mapped; `broker` on PATH; and `hostname`, which says `host`."""
        variables = {name: self._mapped(str(value)) for name, value in service.get("environment", {}).items()}
        programs = self.folder / host
        programs.mkdir(exist_ok=True)
        if not (programs / "hostname").exists():
            (programs / "hostname").write_text(f"#!/bin/sh\necho {host}\n")
            (programs / "hostname").chmod(0o700)
        path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {"BROKER_STATE_DIR": str(self.folder), **variables, "PATH": path}

    def start(self, service: Mapping[str, Any], *, host: str) -> "subprocess.Popen[str]":
        """The service's own command in a process of its own, as a container with that host name."""
        process = start(argv(service["command"]), env=self.environment(service, host=host))
        self._processes.append(process)
        return process

    def run(self, service: Mapping[str, Any], command: list[str], *, host: str) -> "subprocess.CompletedProcess[str]":
        """A command inside that container, to its end."""
        environment = {**os.environ, **self.environment(service, host=host)}
        return subprocess.run(argv(command), env=environment, capture_output=True, text=True, check=False, timeout=60)

    def close(self) -> None:
        """Kill what still runs."""
        for process in self._processes:
            end(process)

    def _mapped(self, value: str) -> str:
        for inside, here in self.mapping.items():
            value = value.replace(inside, here)
        assert not _IMAGE_ONLY.search(value), f"{value!r} means nothing outside a container: map it"
        return value
