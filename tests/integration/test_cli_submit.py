"""What `broker submit` sends, as its command line says, and how it is repeated; `redrive` of several likewise."""

import json
import re
from pathlib import Path

import pytest

from broker.queues import intake_key
from tests.commands import Commands
from tests.fleet import Fleet
from tests.home import Home

pytestmark = pytest.mark.redis


@pytest.mark.parametrize("options", [
    ["--set", "queue=builds", "--set", "priority=7", "--set", "id=said"],
    ["--queue", "builds", "--priority", "7", "--id", "said-otherwise"],
])  # fmt: skip
def test_a_queue_a_priority_and_an_id_may_be_set_as_any_other_key(home: Home, options: list[str]) -> None:
    status, made = home.json("submit", "-", *options, input='{"id": "in-the-file", "queue": "slow", "priority": 1}')
    assert (status, made["job_id"]) == (0, options[-1].removeprefix("id="))
    job = home.json("job", made["job_id"])[1]["job"]
    assert (job["queue"], job["priority"]) == ("builds", 7)


@pytest.mark.parametrize("options", [
    ["--set", "queue=a", "--set", "queue=b"],
    ["--set", "queue=a", "--queue", "b"],
    ["--set", "job_id=a", "--id", "b"],
    ["--set", 'labels={"a": "1", "a": "2"}'],
    ["--set", f"labels={'[' * 100_000}"],
])  # fmt: skip
def test_what_is_set_twice_or_too_deep_is_refused_before_anything_is_sent(home: Home, options: list[str]) -> None:
    status, told = home.json("submit", "-", *options, input="{}")
    assert status == 2
    assert "stands twice" in told["error"] or "nested" in told["error"]


def test_an_id_that_is_set_names_one_job(home: Home) -> None:
    many = "\n".join(map(json.dumps, [{"queue": "never"}] * 2))
    status, told = home.json("submit", "-", "--set", "id=mine", input=many)
    assert (status, "names one job" in told["error"]) == (2, True)
    assert home.lines("jobs", "--queue", "never") == []


def test_under_a_request_id_a_bad_file_holds_back_the_others_so_that_each_job_keeps_its_number(home: Home) -> None:
    for name, text in (("a", '{"payload": "a"}'), ("b", '{"payload":'), ("c", '{"payload": "c"}')):
        (home.path / f"{name}.json").write_text(text)
    command = ("submit", "a.json", "b.json", "c.json", "--queue", "three", "--request-id", "three")
    status, out, err = home.run(*command)
    assert (status, out) == (1, "")
    assert "nothing was submitted" in err
    (home.path / "b.json").write_text('{"payload": "b"}')
    assert [home.run(*command)[0] for _ in range(2)] == [0, 0]
    jobs = [job["id"] for job in home.lines("jobs", "--queue", "three")]
    assert [home.json("job", job)[1]["spec"]["payload"] for job in sorted(jobs)] == ["a", "b", "c"]


@pytest.mark.parametrize("asked", [(), ("--request-id", "mine")])
def test_several_jobs_without_an_answer_are_repeated_as_they_say_and_none_is_made_twice(
    fleet: Fleet, commands: Commands, tmp_path: Path, asked: tuple[str, ...]
) -> None:
    home = Home(tmp_path, {"BROKER_REDIS_URL": fleet.redis_url}, run=commands.run)
    two = '{"payload": 1}\n{"payload": 2}'
    status, _, err = home.run("submit", "-", "--timeout", "0.3", *asked, input=two)
    [said] = set(re.findall(r"the request id was (\S+)", err))
    assert status == 4
    fleet.start_worker()
    assert home.run("submit", "-", "--request-id", said, input=two)[0] == 0
    assert len(home.lines("jobs")) == 2


def test_redrives_without_an_answer_are_repeated_under_the_id_of_the_whole_command(
    fleet: Fleet, commands: Commands, tmp_path: Path
) -> None:
    home = Home(tmp_path, {"BROKER_REDIS_URL": fleet.redis_url}, run=commands.run)
    status, told = home.json("redrive", "a", "b", "--timeout", "0.3", "--request-id", "mine")
    assert (status, told["request_id"]) == (4, "mine")
    assert "--request-id mine:" in told["next"]


@pytest.mark.parametrize("command", ["submit", "redrive"])
@pytest.mark.parametrize(("asked", "attempt"), [((), 1), (("--request-id", "mine"), 2)])
def test_what_is_asked_for_the_first_time_is_no_resend_though_its_ids_are_told(
    fleet: Fleet, commands: Commands, tmp_path: Path, command: str, asked: tuple[str, ...], attempt: int
) -> None:
    home = Home(tmp_path, {"BROKER_REDIS_URL": fleet.redis_url, "BROKER_WIRE": "intake"}, run=commands.run)
    arguments = ("-",) if command == "submit" else ("a", "b")
    home.run(command, *arguments, "--timeout", "0.3", *asked, input='{"payload": 1}\n{"payload": 2}')
    sent = [json.loads(text) for text in fleet.redis.lrange(intake_key("jobs"), 0, -1)]
    assert sent
    assert {request["attempt"] for request in sent} == {attempt}
