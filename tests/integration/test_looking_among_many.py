"""However many jobs there are, one look is one bounded search, and what it could not look at is found by the next."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from broker import batch
from broker.answers import Word
from broker.earlier_grants import EarlierGrants
from broker.held_leases import HeldLeases
from broker.messages import Request
from broker.offered_jobs import SETS_MAX
from broker.proposals import Remembered
from broker.repository import INDEXES, leased_by
from broker.settlement import Settlement
from datastore import Datastore, Filter, Page
from datastore.memory import MemoryDatastore
from datastore.sqlite import SqliteDatastore
from tests.caller import Caller
from tests.in_process import InProcess
from tests.integration.fat_jobs import ask
from tests.integration.test_large_listings import all_pages
from tests.twins.forwarding import Forwarding

pytestmark = pytest.mark.redis

LOOKS = 10
OTHERS = 30


class CountsFinds(Forwarding):
    """How often was searched."""

    def __init__(self, inner: Datastore) -> None:
        super().__init__(inner)
        self.finds = 0

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        self.finds += 1
        return super().find(filter, limit, cursor)


class NothingComesAfter(Forwarding):
    """Says of the first page that it was the last."""

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        return Page(super().find(filter, limit, cursor).documents, None)


@pytest.fixture(params=["memory", "sqlite"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CountsFinds]:
    """A store in which a search looks at few documents for one page."""
    store: Datastore
    if request.param == "memory":
        store = MemoryDatastore(indexes=INDEXES, looks_max=LOOKS)
    else:
        store = SqliteDatastore(tmp_path / "jobs.db", indexes=INDEXES, looks_max=LOOKS)
    yield CountsFinds(store)
    store.close()


@pytest.fixture
def broker(small: CountsFinds, redis_client: redis.Redis) -> InProcess:
    """With more jobs of another queue than a page looks at, before all others."""
    broker = InProcess(small, redis_client)
    broker.submit(*(f"a-{number:02}" for number in range(OTHERS)), queue="other")
    return broker


def explained(broker: InProcess, **fields: Any) -> dict[str, Any]:
    return dict(ask(broker, "explain", factory="f", **fields)["body"])


def test_an_explanation_searches_once_for_all_queues_that_its_factory_asked_for(
    broker: InProcess, small: CountsFinds
) -> None:
    caller = broker.caller
    broker.ask(*(caller.make("claim", queue=f"empty-{number:02}") for number in range(32)))
    small.finds = 0
    body = ask(broker, "explain", factory=caller.factory)["body"]
    assert (len(body["queues"]), body["looked_at"], body["more"]) == (32, 0, True)
    [held, ready] = [1, 1]
    assert small.finds == held + ready


def test_jobs_that_the_search_did_not_come_to_are_known_by_the_index(broker: InProcess) -> None:
    broker.submit("z-gpu", queue="mine", requires=["gpu"])
    broker.submit("z-plain", "z-taken", queue="mine")
    broker.submit("z-lane-1", "z-lane-2", queue="mine", fairness_key="k")
    assert ask(broker, "claim", job_id="z-taken")["answer"] == "granted"
    [key] = broker.redis.keys("broker:ready:mine:in:[[]]")
    broker.redis.zadd(key, {"z-taken": 0, "no-such-job": 0, "a-03": 0})
    body = explained(broker, queue="mine", offers=[])
    assert (body["looked_at"], body["fits"], body["more"]) == (4, 3, True)
    assert [(each["job_id"], each["reasons"]) for each in body["refused"]] == [("z-gpu", ["requirements"])]


def test_the_twin_that_has_lost_its_index_says_at_least_that_there_is_more(broker: InProcess) -> None:
    broker.submit("z-gpu", queue="mine", requires=["gpu"])
    broker.redis.flushall()
    body = explained(broker, queue="mine", offers=[])
    assert (body["looked_at"], body["refused"], body["more"]) == (0, [], True)


def test_each_queue_has_its_share_of_the_sets_that_are_looked_at(broker: InProcess) -> None:
    for number in range(SETS_MAX):
        broker.submit(f"y-{number:02}", queue="many-sets", requires=[f"r{number:02}"])
    broker.submit("z-1", queue="one-set")
    caller = broker.caller
    broker.ask(*(caller.make("claim", queue=queue, offers=["none"]) for queue in ("many-sets", "none")))
    broker.ask(caller.make("claim", queue="one-set", offers=["r00"], count=1))
    body = ask(broker, "explain", factory=caller.factory, offers=[])["body"]
    assert body["looked_at"] == SETS_MAX // 3


def test_a_page_of_jobs_is_one_search_and_its_cursor_leads_to_what_that_did_not_come_to(
    broker: InProcess, small: CountsFinds
) -> None:
    broker.submit("b-1", "z-1", "z-2", queue="mine")
    for filter in ({}, {"state": "ready"}):
        small.finds = 0
        listed = all_pages(broker, "list_jobs", queue="mine", limit=500, **filter)
        assert [job["id"] for page in listed for job in page["jobs"]] == ["b-1", "z-1", "z-2"]
        assert listed[0]["jobs"] == []
        assert small.finds == len(listed) == 4


def test_specs_and_runs_are_passed_by(broker: InProcess) -> None:
    for _ in range(3):
        granted = ask(broker, "claim", job_id="a-05")["body"]
        lease = {name: granted[name] for name in ("job_id", "epoch", "token")}
        assert ask(broker, "release", **lease)["answer"] == "ok"
    listed = all_pages(broker, "list_jobs", limit=LOOKS)
    assert [len(page["jobs"]) for page in listed] == [LOOKS] * (OTHERS // LOOKS)


def again(request: Request) -> Request:
    return request.model_copy(update={"attempt": request.attempt + 1})


def test_resends_of_one_batch_are_looked_for_together(broker: InProcess, small: CountsFinds) -> None:
    first = [broker.caller.make("claim", queue="other") for _ in range(4)]
    granted = broker.ask(*first)
    broker.redis.flushall()
    broker.sweep()
    small.finds = 0
    others = [again(broker.caller.make("claim", queue="none")) for _ in range(8)]
    replies = broker.ask(*map(again, first), *others)
    assert [reply["answer"] for reply in replies] == ["replayed"] * 4 + ["none_available"] * 8
    assert [reply["body"]["job_id"] for reply in replies[:4]] == [reply["body"]["job_id"] for reply in granted]
    assert small.finds == 1


class OneByOne(EarlierGrants):
    """Each by itself, as it was."""

    def of(self, request: Any, *, at_most: int) -> Remembered | Settlement | None:
        return EarlierGrants(self._store, [request]).of(request, at_most=at_most)


def test_the_twin_that_looks_for_each_by_itself_searches_as_often(
    broker: InProcess, small: CountsFinds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "EarlierGrants", OneByOne)
    small.finds = 0
    broker.ask(*(again(broker.caller.make("claim", queue="none")) for _ in range(8)))
    assert small.finds == 8


def granted_twice(broker: InProcess, store: Datastore) -> list[str]:
    """The jobs that a claim gets, and its resend, where more are leased than a page looks at."""
    broker.ask(*(broker.caller.make("claim", job_id=f"a-{number:02}") for number in range(OTHERS)))
    broker.submit("z-1", "z-2", queue="mine")
    claim = broker.caller.make("claim", queue="mine")
    [first] = broker.ask(claim)
    broker.redis.flushall()
    broker = InProcess(store, broker.redis)
    broker.sweep()
    [second] = broker.ask(again(claim))
    return [reply["body"]["job_id"] for reply in (first, second)]


def test_a_resend_gets_its_own_job_among_more_leases_than_a_page_looks_at(
    broker: InProcess, small: CountsFinds
) -> None:
    assert granted_twice(broker, small) == ["z-1", "z-1"]


def test_the_twin_that_looks_at_one_page_grants_it_another(broker: InProcess, small: CountsFinds) -> None:
    assert granted_twice(broker, NothingComesAfter(small)) == ["z-1", "z-2"]


def send_and_serve(broker: InProcess, *requests: Request) -> None:
    broker.caller.send(*requests)
    broker.serve()


def leased(broker: InProcess) -> list[dict[str, Any]]:
    [page] = all_pages(broker, "list_jobs", state="leased")
    return list(page["jobs"])


def registering(broker: InProcess, count: int) -> list[Request]:
    """So many starts of two factories, each of which ends the one before."""
    callers = [
        Caller(broker.redis, f"f{number % 2}", instance=f"i{number}", incarnation=f"start-{number}")
        for number in range(count)
    ]
    return [caller.make("register_factory") for caller in callers]


def test_what_those_hold_who_register_in_one_batch_is_looked_for_once(broker: InProcess, small: CountsFinds) -> None:
    holder = Caller(broker.redis, "f1", incarnation="start")
    send_and_serve(broker, holder.make("claim", job_id="a-29"))
    assert [job["id"] for job in leased(broker)] == ["a-29"]
    small.finds = 0
    send_and_serve(broker, *registering(broker, 8))
    assert small.finds == 1
    assert leased(broker) == []


def test_the_twin_that_looks_for_what_each_holds_searches_as_often(
    broker: InProcess, small: CountsFinds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HeldLeases, "by", lambda self, factory_id: leased_by(self._store, factory_id))
    small.finds = 0
    send_and_serve(broker, *registering(broker, 8))
    assert small.finds == 8


def test_a_claim_of_the_last_start_in_the_same_batch_is_ended_by_the_next_one(broker: InProcess) -> None:
    one, last, new = (Caller(broker.redis, name, incarnation=start) for name, start in ("as", "bt", "bu"))
    registers = [caller.make("register_factory") for caller in (one, last, new)]
    claim = last.make("claim", job_id="a-00")
    broker.caller.send(*registers, claim)
    hand = broker.take()
    settled = broker.settle(hand.entries)
    assert [result.request.op for _, result in settled] == ["claim", *["register_factory"] * 3]
    answers = [result.answer for _, result in settled if result.answer is not None]
    assert answers[0].word is Word.GRANTED
    assert answers[-1].body["ended"] == ["a-00"]
    broker.finish(settled)
