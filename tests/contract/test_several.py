"""Several updates with one call: each as `update_if_match` would say it, on every store that takes them."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier

import pytest
from msgspec import structs

from datastore import Conflict, Datastore, Document, Expected, NotFound, Ok, Rejected, connect
from datastore.contract import CHECKS, Check
from datastore.interface import TakesSeveral, Update, UpdateResult
from datastore.memory import MemoryDatastore
from tests.twins.counts_reads import CountsReads
from tests.twins.forwarding import Forwarding
from tests.twins.ignores_etag import IgnoresEtag
from tests.twins.several import OneOfSeveral, StopsPartWay, WritesAnyway

STORES = ("memory", "sqlite")
RACERS = 8
JOBS = tuple(f"job-{number}" for number in range(20))


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Datastore]:
    store = connect("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db", indexes=("state",))
    yield store
    store.close()


def put(store: Datastore, *names: str) -> list[Document]:
    """New documents at rev 1."""
    made = [store.create(name, name, {"state": "ready", "kept": 1}) for name in names]
    return [each.document for each in made if isinstance(each, Ok)]


def stored(store: Datastore, name: str) -> Document:
    found = store.read(name, name)
    assert isinstance(found, Ok)
    return found.document


def update(known: Document, **patch: object) -> Update:
    return Update(known.id, known.id, Expected(known.etag, known.rev, known), patch)


def each_of(store: Datastore, *updates: Update) -> list[UpdateResult]:
    assert isinstance(store, TakesSeveral)
    return store.update_each(updates)


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_an_update_that_is_one_of_several_keeps_every_promise_of_the_contract(store: Datastore, check: Check) -> None:
    check.run(OneOfSeveral(store))


def test_each_stands_for_itself_and_is_answered_in_its_place(store: Datastore) -> None:
    first, stale, last = put(store, "a", "b", "c")
    now = store.update_if_match("b", "b", Expected(stale.etag), {"state": "theirs"})
    gone = Document("gone", "gone", 1, first.etag, {})
    results = each_of(store, update(first, state="ours"), update(stale, state="ours"), update(gone), update(last, n=2))
    assert isinstance(now, Ok)
    assert results == [Ok(stored(store, "a")), Conflict(now.document), NotFound(), Ok(stored(store, "c"))]
    assert [dict(stored(store, name).body) for name in "abc"] == [
        {"state": "ours", "kept": 1},
        {"state": "theirs", "kept": 1},
        {"state": "ready", "kept": 1, "n": 2},
    ]
    found = store.find({"state": "ours"}).documents
    assert [document.id for document in found] == ["a"], "what was written is found by what it is now"


def test_a_document_stands_for_its_own_version_and_for_no_other(store: Datastore) -> None:
    job, other = put(store, "a", "b")
    equal = structs.replace(job, body={})
    for wrong in (structs.replace(job, rev=2), structs.replace(job, etag=other.etag), other):
        assert each_of(store, Update("a", "a", wrong, {"n": 1})) == [Conflict(job)]
    [written] = each_of(store, Update("a", "a", equal, {"n": 2}))
    assert written == Ok(stored(store, "a"))
    first, second = each_of(store, *[Update("b", "b", stored(store, "b"), {"by": n}) for n in (1, 2)])
    assert (first, second) == (Ok(stored(store, "b")), Conflict(stored(store, "b")))
    assert each_of(store, Update("a", "a", job, {"n": 3})) == [Conflict(stored(store, "a"))]


def test_of_two_of_one_document_the_second_comes_too_late(store: Datastore) -> None:
    [job] = put(store, "a")
    first, second = each_of(store, update(job, by="first"), update(job, by="second"))
    assert first == Ok(stored(store, "a"))
    assert second == Conflict(stored(store, "a"))
    assert (stored(store, "a").rev, stored(store, "a").body["by"]) == (2, "first")


def none_is_written_where_one_cannot_be(store: Datastore) -> bool:
    """Whether it is so, inside a batch and outside."""
    jobs = put(store, "a", "b")
    wrong = [update(jobs[0], n=1), update(jobs[1], n=float("nan"))]
    with pytest.raises(Rejected):
        each_of(store, *wrong)
    with store.batch(), pytest.raises(Rejected):
        each_of(store, *wrong)
    return [stored(store, job.id) for job in jobs] == jobs


def test_where_one_cannot_be_stored_none_is_written(store: Datastore) -> None:
    assert none_is_written_where_one_cannot_be(store)
    assert not none_is_written_where_one_cannot_be(StopsPartWay(MemoryDatastore())), "a broken store is not noticed"


def test_a_batch_reads_them_and_takes_them_back_with_all_else(tmp_path: Path) -> None:
    store = connect(f"sqlite:///{tmp_path}/jobs.db")
    jobs = put(store, "a", "b")
    with suppress(ZeroDivisionError), store.batch():
        results = each_of(store, *(update(job, n=1) for job in jobs))
        assert results == [Ok(stored(store, job.id)) for job in jobs]
        raise ZeroDivisionError
    assert [stored(store, job.id) for job in jobs] == jobs
    store.close()


def winners_of_a_race(store: Datastore) -> list[int]:
    """How many of the racers have written each document, of whose one version all of them know."""
    jobs = put(store, *JOBS)
    start = Barrier(RACERS)

    def race(racer: int) -> list[UpdateResult]:
        updates = [update(job, by=racer) for job in jobs[racer:] + jobs[:racer]]
        start.wait(30)
        return each_of(store, *updates)

    with ThreadPoolExecutor(RACERS) as threads:
        results = [result for each in threads.map(race, range(RACERS)) for result in each]
    won = [result.document.id for result in results if isinstance(result, Ok)]
    return [won.count(name) for name in JOBS]


@pytest.mark.parametrize(
    ("broken", "sound"), [(WritesAnyway, False), (lambda store: store, True)], ids=["a broken twin", "each store"]
)
def test_of_racers_that_update_the_same_documents_one_wins_each(
    store: Datastore, broken: Callable[[Datastore], Datastore], sound: bool
) -> None:
    assert (winners_of_a_race(broken(store)) == [1] * len(JOBS)) is sound


def test_a_twin_takes_several_as_the_store_beneath_unless_they_would_pass_by_what_it_does_to_one(
    store: Datastore,
) -> None:
    [job] = put(store, "a")
    beneath, twin = IgnoresEtag(store), CountsReads(store)
    assert each_of(twin, update(job, n=1)) == [Ok(stored(store, "a"))]
    for hides in (beneath, CountsReads(beneath), Forwarding(CountsReads(beneath))):
        assert not hasattr(hides, "update_each")
