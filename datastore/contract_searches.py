"""The part of the contract about `find`: alike in every store, and complete over all pages."""

from datastore.contract_probe import Probe, expect
from datastore.interface import AnyOf, AtLeast, AtMost, Document, Filter, JsonValue


def a_search_finds_equal_values(probe: Probe) -> None:
    ready, leased = probe.new({"state": "ready", "n": 1}), probe.new({"state": "leased", "n": 1})
    probe.new({"state": None})
    probe.new({})
    _expect_found(probe, {"state": "ready"}, [ready])
    _expect_found(probe, {"n": 1}, [ready, leased])
    _expect_found(probe, {"n": 1, "state": "leased"}, [leased])
    _expect_found(probe, {"state": "nowhere"}, [])


def true_is_not_one(probe: Probe) -> None:
    yes, one = probe.new({"flag": True}), probe.new({"flag": 1})
    probe.new({"flag": "1"})
    _expect_found(probe, {"flag": True}, [yes])
    _expect_found(probe, {"flag": 1}, [one])


def equal_values_are_found_under_a_dotted_path(probe: Probe) -> None:
    held = probe.new({"lease": {"holder": {"name": "one"}}})
    others: tuple[JsonValue, ...] = ({"holder": {"name": "two"}}, {"holder": {}}, {"holder": "one"}, {}, None, ["one"])
    for other in others:
        probe.new({"lease": other})
    probe.new({})
    _expect_found(probe, {"lease.holder.name": "one"}, [held])
    released = probe.written(held, {"lease": None})
    _expect_found(probe, {"lease.holder.name": "one"}, [])
    again = probe.written(released, {"lease": {"holder": {"name": "one"}}})
    _expect_found(probe, {"lease.holder.name": "one"}, [again])


def at_most_compares_numbers_under_a_dotted_path(probe: Probe) -> None:
    early, exact = probe.new({"lease": {"expires_ms": 5}}), probe.new({"lease": {"expires_ms": 10}})
    for other in ({"expires_ms": 11}, {"expires_ms": None}, {"expires_ms": "1"}, {"expires_ms": False}, {}, None, [1]):
        probe.new({"lease": other})
    probe.new({})
    _expect_found(probe, {"lease.expires_ms": AtMost(10)}, [early, exact])
    _expect_found(probe, {"lease.expires_ms": AtMost(4)}, [])


def at_least_compares_numbers_under_a_dotted_path(probe: Probe) -> None:
    exact, late = probe.new({"lease": {"expires_ms": 10}}), probe.new({"lease": {"expires_ms": 11}})
    for other in ({"expires_ms": 9}, {"expires_ms": None}, {"expires_ms": "99"}, {"expires_ms": True}, {}, None, [99]):
        probe.new({"lease": other})
    probe.new({})
    _expect_found(probe, {"lease.expires_ms": AtLeast(10)}, [exact, late])
    _expect_found(probe, {"lease.expires_ms": AtLeast(12)}, [])


def any_of_finds_each_of_its_values(probe: Probe) -> None:
    ready, leased = probe.new({"state": "ready"}), probe.new({"state": "leased"})
    probe.new({"state": "failed"})
    _expect_found(probe, {"state": AnyOf(("ready", "leased"))}, [ready, leased])
    _expect_found(probe, {"state": AnyOf(())}, [])


def a_search_sees_the_last_version(probe: Probe) -> None:
    first = probe.new({"state": "ready"})
    after = probe.written(first, {"state": "leased"})
    _expect_found(probe, {"state": "leased"}, [after])
    _expect_found(probe, {"state": "ready"}, [])


def pages_lose_nothing_and_repeat_nothing(probe: Probe) -> None:
    wanted = [probe.new({"page": "yes", "n": number}) for number in range(7)]
    probe.new({"page": "no"})
    for limit in (1, 3, 7, 8):
        found: list[Document] = []
        cursor = None
        for _ in range(len(wanted) + 1):
            page = probe.store.find({"partition_key": probe.partition_key, "page": "yes"}, limit, cursor)
            expect(len(page.documents) <= limit, f"a page of {limit} held {len(page.documents)}")
            found += page.documents
            expect((page.cursor is None) == (len(found) >= len(wanted)), f"a page of {limit} did not say if it is last")
            cursor = page.cursor
            if cursor is None:
                break
        expect(cursor is None, f"pages of {limit} did not end")
        expect(found == wanted, f"pages of {limit} gave {len(found)} documents of 7, or in another order")


def a_search_spans_partitions_unless_told(probe: Probe) -> None:
    here = probe.new({"mark": probe.partition_key})
    other_key = f"{probe.partition_key}:other"
    probe.store.create(here.id, other_key, {"mark": probe.partition_key})
    everywhere = probe.store.find({"mark": probe.partition_key}).documents
    keys = [document.partition_key for document in everywhere]
    expect(keys == [probe.partition_key, other_key], f"a search over all partitions found it in {keys}")
    _expect_found(probe, {"mark": probe.partition_key}, [here])


def a_query_that_stores_would_read_differently_is_refused(probe: Probe) -> None:
    bad: list[tuple[Filter, int]] = [({}, 0), ({"a'b": 1}, 1), ({"id": "x"}, 1), ({"a..b": 1}, 1), ({"a": None}, 1)]  # type: ignore[dict-item]
    for query, limit in bad:
        try:
            probe.store.find(query, limit)
        except ValueError:
            continue
        expect(False, f"find({query}, {limit}) was accepted")


def _expect_found(probe: Probe, filter: Filter, wanted: list[Document]) -> None:
    found = list(probe.store.find({**filter, "partition_key": probe.partition_key}).documents)
    expect(found == wanted, f"{filter} found {[one.id for one in found]}, not {[one.id for one in wanted]}")


SEARCHES = (
    a_search_finds_equal_values,
    true_is_not_one,
    equal_values_are_found_under_a_dotted_path,
    at_most_compares_numbers_under_a_dotted_path,
    at_least_compares_numbers_under_a_dotted_path,
    any_of_finds_each_of_its_values,
    a_search_sees_the_last_version,
    pages_lose_nothing_and_repeat_nothing,
    a_search_spans_partitions_unless_told,
    a_query_that_stores_would_read_differently_is_refused,
)
