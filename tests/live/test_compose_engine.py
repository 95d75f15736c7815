"""docker-compose.yml under an engine: LIVE_COMPOSE is what runs it, such as `docker compose`; the image is built anew.

Needs the images it names, or a registry. Containers, network and volumes have a name of their own, and go at the end.
"""

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.compose import ROOT
from tests.live.reporting import needs
from tests.processes import wait_for

pytestmark = needs("an engine that runs docker-compose.yml", "LIVE_COMPOSE")
UP_S = 600
STATES_MS = 90_000
JOBS = 20


class Project:
    """The services of docker-compose.yml, run apart from any other fleet of this machine."""

    def __init__(self) -> None:
        self._command = [*shlex.split(os.environ["LIVE_COMPOSE"]), "--project-name", f"live-{uuid4().hex[:8]}"]

    def __call__(self, *arguments: str, text: str | None = None) -> str:
        """What a command of Compose says; it has to succeed."""
        done = subprocess.run(
            [*self._command, *arguments],
            cwd=ROOT,
            input=text,
            capture_output=True,
            text=True,
            timeout=UP_S,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stderr[-2_000:]}"
        return done.stdout

    def up(self, *arguments: str) -> None:
        """Every service, until each is healthy."""
        self("up", "--detach", "--wait", *arguments)

    def broker(self, *arguments: str, text: str | None = None) -> str:
        """What a command in a container of its own says."""
        jobs = f"{ROOT}/examples/jobs:/jobs:ro"
        return self("run", "--rm", "--no-TTY", "--volume", jobs, "cli", "broker", *arguments, text=text)

    def kill(self, service: str) -> None:
        """SIGKILL for all that runs in one container of a service but its init, which ends with that."""
        self("exec", "--no-TTY", service, "sh", "-c", "kill -9 -1 || true")

    def states(self) -> dict[str, str]:
        """Each job's state."""
        jobs = [json.loads(line) for line in self.broker("jobs", "--json").splitlines()]
        return {job["id"]: job["state"] for job in jobs}


@pytest.fixture
def project() -> Iterator[Project]:
    compose = Project()
    yield compose
    compose("down", "--volumes", "--timeout", "5")


def test_the_fleet_comes_up_serves_outlives_kills_and_keeps_its_jobs(project: Project) -> None:
    project.up("--build")
    project.broker("submit", "/jobs/hello.md")
    wait_for(lambda: project.states() == {"hello": "succeeded"}, "hello is done", deadline_ms=STATES_MS)
    project.broker("submit", "-", text="".join(json.dumps({"id": f"job-{number}"}) + "\n" for number in range(JOBS)))
    for service in ("worker", "sweep", "valkey"):
        project.kill(service)
    everything = {"hello", *(f"job-{number}" for number in range(JOBS))}
    done = dict.fromkeys(everything, "succeeded")
    wait_for(lambda: project.states() == done, "all jobs are done", deadline_ms=STATES_MS)
    project("down")
    project.up("--scale", "factory=5")
    assert project.states() == done
