"""The examples of the documentation, run as a reader would."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from broker.client import Client
from broker.client.recording import VARIABLE
from broker.history.reading import read
from broker.history.record import Kind, Record
from broker.messages import SubmitBody
from tests.fleet import Fleet
from tests.processes import wait_for

pytestmark = pytest.mark.redis
EXAMPLES = Path(__file__).parents[2] / "examples"
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def run(fleet: Fleet, *argv: str, **env: str) -> str:
    """Run a command to its end with the fleet's environment; its output."""
    ended = subprocess.run(
        argv,
        env={**os.environ, **fleet.environment(env)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def states(client: Client) -> set[str]:
    return {job["state"] for job in client.jobs().body["jobs"]}


@pytest.mark.parametrize("example", ["factory.py", "async_factory.py", "factory.sh", "host.sh"])
def test_a_factory_works_off_its_jobs(fleet: Fleet, example: str) -> None:
    fleet.start_worker()
    with Client.connect(fleet.redis_url, factory_id="f") as client:
        client.submit_many([SubmitBody(job_id=f"j{number}", payload={"body": "one two"}) for number in range(6)])
        if example.endswith(".py"):
            argv = [sys.executable, str(EXAMPLES / example), "--factory", "example", "--jobs", "6"]
            run(fleet, *argv)
            assert client.runs("j0").body["runs"][0]["result"] == {"words": 2}
        else:
            limits = {"JOBS": "6", "WAIT": "1", "IDLE": "1"}
            output = run(fleet, str(EXAMPLES / example), PATH=PATH, BROKER_FACTORY="example", **limits)
            assert output.count("epoch 1: 19 bytes of payload") == 6, output
        assert states(client) == {"succeeded"}


@pytest.mark.parametrize("example", ["factory.py", "async_factory.py"])
def test_a_factory_pauses_as_it_is_told_to_where_it_may_have_no_more_jobs(
    fleet: Fleet, tmp_path: Path, example: str
) -> None:
    fleet.start_worker()
    (history := tmp_path / "history").mkdir()
    argv = [sys.executable, str(EXAMPLES / example), "--factory", "example", "--jobs", "1"]

    def told(kind: Kind) -> list[Record]:
        return [record for each in read([history]) for record in each if (record.type, record.op) == (kind, "claim")]

    with Client.connect(fleet.redis_url, factory_id="example") as client:
        client.submit(job_id="j")
        client.set_limit("factory:example", capacity=0)
        pause_ms = client.claim().retry_after_ms
        assert pause_ms is not None
        factory = fleet.start([*argv, *(["--at-once", "1"] if "async" in example else [])], {VARIABLE: str(history)})
        wait_for(lambda: len(told("refused")) >= 2, "it was refused twice")
        client.remove_limit("factory:example")
        assert factory.wait(timeout=30) == 0
        assert states(client) == {"succeeded"}
    pauses = [after.at - refused.at for refused, after in zip(told("refused"), told("invoke")[1:], strict=True)]
    assert [pause for pause in pauses if pause < (pause_ms - 1) * 1_000_000] == []


@pytest.mark.parametrize("example", ["factory.py", "async_factory.py"])
def test_a_factory_goes_on_after_a_job_that_it_can_not_do(fleet: Fleet, example: str) -> None:
    fleet.start_worker()
    with Client.connect(fleet.redis_url, factory_id="f") as client:
        client.submit(1, job_id="odd", max_failures=1)
        client.submit_many([{"job_id": f"j{number}", "payload": {"body": "one two"}} for number in range(5)])
        output = run(fleet, sys.executable, str(EXAMPLES / example), "--factory", "example", "--jobs", "6")
        ended = {job["id"]: job["state"] for job in client.jobs().body["jobs"]}
    assert "failed: AttributeError" in output
    assert ended == {"odd": "failed", **{f"j{number}": "succeeded" for number in range(5)}}


def test_a_shell_factory_that_is_told_to_stop_gives_its_job_back(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start_worker()
    begun = tmp_path / "begun"
    argv = [str(EXAMPLES / "factory.sh"), "sh", "-c", f"touch '{begun}'; exec sleep 60"]
    with Client.connect(fleet.redis_url, factory_id="f") as client:
        client.submit(job_id="j")
        factory = fleet.start(argv, {"PATH": PATH, "BROKER_FACTORY": "example"})
        wait_for(begun.exists, "the command runs")
        factory.terminate()
        assert factory.wait(timeout=30) == 143
        assert states(client) == {"ready"}


def test_a_shell_factory_without_a_broker_says_so_and_asks_again_after_growing_pauses(tmp_path: Path) -> None:
    told = tmp_path / "told"
    environ = {"PATH": PATH, "BROKER_FACTORY": "f", "BROKER_REDIS_URL": f"unix://{tmp_path}/nobody.sock", "JOBS": "1"}
    with told.open("w") as out:
        factory = subprocess.Popen([str(EXAMPLES / "factory.sh")], env=environ, stdout=out, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: told.read_text().count("asks again") == 3, "the third pause", deadline_ms=60_000)
        factory.terminate()
        assert factory.wait(timeout=30) == 143, "it did not end by itself: no job was done"
    finally:
        factory.kill()
        factory.wait()
    pauses = [
        int(each) for each in re.findall(r"no broker answers, or it refuses; asks again in (\d+) s", told.read_text())
    ]
    assert [low <= pause <= 2 * low for low, pause in zip((1, 2, 4), pauses, strict=True)] == [True] * 3
    assert "Redis is not reachable" in told.read_text()


def test_a_late_writer_is_refused_downstream(fleet: Fleet) -> None:
    fleet.start_worker()
    output = run(fleet, sys.executable, str(EXAMPLES / "fenced_writer.py"))
    assert "epoch 1 is stale, 2 was admitted" in output
    assert "the report reads: final" in output


FACTORIES = (["factory.py", "--factory", "f"], ["async_factory.py", "--factory", "f"])
WATCH = ["watch.py", "cursor.txt"]


@pytest.mark.parametrize("argv", [*FACTORIES, WATCH, ["fenced_writer.py"]], ids=lambda argv: str(argv[0]))
def test_an_example_without_a_broker_says_what_to_set(argv: list[str]) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "BROKER_REDIS_URL"}
    ended = subprocess.run(
        [sys.executable, str(EXAMPLES / argv[0]), *argv[1:]], env=environ, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (1, "set BROKER_REDIS_URL, such as to redis://localhost\n")


@pytest.mark.parametrize(
    "argv",
    [
        [sys.executable, str(EXAMPLES / "watch.py")],
        ["sh", str(EXAMPLES / "signed.sh")],
        ["sh", str(EXAMPLES / "signed.sh"), "sign"],
    ],
    ids=["watch.py", "signed.sh", "signed.sh sign"],
)
def test_an_example_without_its_arguments_says_how_it_is_used(argv: list[str]) -> None:
    ended = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr.startswith("usage: ")) == (2, True), ended.stderr


@pytest.mark.parametrize("argv", [*FACTORIES, WATCH], ids=lambda argv: str(argv[0]))
def test_an_example_that_is_interrupted_ends_without_a_traceback(fleet: Fleet, tmp_path: Path, argv: list[str]) -> None:
    fleet.start_worker()
    with Client.connect(fleet.redis_url, factory_id="f") as client:
        client.submit(job_id="j")
        out = (tmp_path / "out").open("w+")
        with out:
            example = subprocess.Popen(
                [sys.executable, "-u", str(EXAMPLES / argv[0]), *argv[1:]],
                cwd=tmp_path,
                env={**os.environ, **fleet.environment({})},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
            wait_for(
                lambda: " j " in (tmp_path / "out").read_text() or "j: done" in (tmp_path / "out").read_text(),
                "it runs",
            )
            example.send_signal(signal.SIGINT)
            assert example.wait(timeout=30) == 130
    assert "Traceback" not in (tmp_path / "out").read_text()
