"""What `broker submit` sends: what was set on its command line."""

import json

import pytest

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
