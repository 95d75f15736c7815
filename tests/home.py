"""A folder that commands are run in, and what several tests of the command line say."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.commands import Run, fresh


class Home:
    """A folder that commands are run in, each in a fresh interpreter unless told otherwise."""

    def __init__(self, path: Path, env: Mapping[str, str] | None = None, *, run: Run = fresh) -> None:
        self.path = path
        self._run = run
        self.env = {"BROKER_FACTORY": "f1", **(env or {})}

    def run(self, *arguments: str, input: str = "", env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        environment = {**os.environ, **self.env, **(env or {})}
        done = self._run(arguments, cwd=self.path, env=environment, input=input)
        assert "Traceback" not in done.err, done.err
        return done.status, done.out, done.err

    def json(self, *arguments: str, input: str = "", env: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """Exit status and the one object that the command printed."""
        command, *rest = arguments
        status, out, _ = self.run(command, "--json", *rest, input=input, env=env)
        return status, json.loads(out)

    def lines(self, *arguments: str) -> list[Any]:
        """What a listing printed."""
        status, out, _ = self.run(*arguments, "--json")
        assert status == 0
        return [json.loads(line) for line in out.splitlines()]

    def submit(self, **fields: Any) -> str:
        """Submit a job; its id."""
        status, reply = self.json("submit", "-", input=json.dumps(fields))
        assert (status, reply["answer"]) == (0, "ok")
        return str(reply["job_id"])

    def claim(self, queue: str, *more: str, factory: str = "f1") -> Any:
        """A grant."""
        status, grant = self.json("claim", "--queue", queue, "--factory", factory, *more)
        assert (status, grant["answer"]) == (0, "granted")
        return grant


def fence(grant: Any) -> list[str]:
    """What a holder says."""
    return [grant["job_id"], "--epoch", str(grant["epoch"]), "--token", grant["token"]]
