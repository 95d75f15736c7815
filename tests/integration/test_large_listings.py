"""Listings of much: their pages end by count or by bytes, and lead to what comes after."""

from typing import Any

import pytest

from broker import pages
from broker.replies import encode
from tests.in_process import InProcess
from tests.integration.fat_jobs import JOBS, ask, stock

pytestmark = pytest.mark.redis


def all_pages(broker: InProcess, op: str, **body: Any) -> list[dict[str, Any]]:
    """The bodies of all pages."""
    found = [ask(broker, op, **body)["body"]]
    while found[-1]["cursor"] is not None:
        found.append(ask(broker, op, **body, cursor=found[-1]["cursor"])["body"])
    return found


@pytest.fixture
def stocked(broker: InProcess) -> InProcess:
    """With fat jobs."""
    return stock(broker)


def test_a_page_of_fat_jobs_ends_by_bytes_and_its_cursor_leads_to_all_others(stocked: InProcess) -> None:
    listed = all_pages(stocked, "list_jobs", limit=500)
    assert [job["id"] for page in listed for job in page["jobs"]] == [f"fat-{number:03}" for number in range(JOBS)]
    assert len(listed) == 2
    assert max(len(encode(page)) for page in listed) < pages.PAGE_BYTES * 1.01


def test_a_page_of_ordinary_jobs_ends_by_count(broker: InProcess) -> None:
    broker.submit(*(f"job-{number:03}" for number in range(pages.PORTION + 30)))
    counts = [[len(page["jobs"]) for page in all_pages(broker, "list_jobs", limit=limit)] for limit in (500, 110, 100)]
    assert counts == [[130], [110, 20], [100, 30]]


def test_an_entry_that_is_larger_than_a_page_is_a_page_by_itself(
    stocked: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_BYTES", 10_000)
    listed = all_pages(stocked, "list_jobs", limit=500)
    assert [len(page["jobs"]) for page in listed] == [1] * JOBS


def test_pages_of_schedules_and_factories_end_by_bytes(broker: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"each-{number}" for number in range(9)]
    for name in names:
        assert ask(broker, "put_schedule", name=name, cron="0 0 * * *", job={})["answer"] == "ok"
        assert ask(broker, "drain_factory", factory=name, reason="r" * 100)["answer"] == "ok"
    monkeypatch.setattr(pages, "PAGE_BYTES", 1_000)
    for op, rows, key in (("list_schedules", "schedules", "name"), ("list_factories", "factories", "factory")):
        listed = all_pages(broker, op)
        assert [row[key] for page in listed for row in page[rows]] == names
        assert 2 < len(listed) < 9


def runs_of(broker: InProcess, job: str, count: int) -> None:
    """Have a job claimed and released so often."""
    broker.submit(job)
    for _ in range(count):
        granted = ask(broker, "claim", job_id=job)["body"]
        lease = {name: granted[name] for name in ("job_id", "epoch", "token")}
        assert ask(broker, "release", **lease, reason="é" * 200)["answer"] == "ok"


def test_runs_come_in_pages_the_latest_first_each_in_order_of_epoch(
    anywhere: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_of(anywhere, "j", 70)
    [whole] = all_pages(anywhere, "list_runs", job_id="j")
    assert [run["epoch"] for run in whole["runs"]] == list(range(1, 71))
    by_count = [
        [run["epoch"] for run in page["runs"]] for page in all_pages(anywhere, "list_runs", job_id="j", limit=30)
    ]
    assert by_count == [list(range(41, 71)), list(range(11, 41)), list(range(1, 11))]
    monkeypatch.setattr(pages, "PAGE_BYTES", 10_000)
    by_bytes = all_pages(anywhere, "list_runs", job_id="j")
    assert 3 < len(by_bytes) < 20
    assert [run["epoch"] for page in by_bytes[::-1] for run in page["runs"]] == list(range(1, 71))
