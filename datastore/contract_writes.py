"""The part of the contract that decides races: when a conditional write writes, and when it must not."""

from datastore.contract_probe import BOGUS_ETAG, Probe, expect
from datastore.interface import Conflict, Document, Expected, NotFound


def a_bogus_etag_conflicts_and_writes_nothing(probe: Probe) -> None:
    # As `known` too, so that a provider has to send the etag to its server instead of comparing by itself.
    stored = probe.new({"by": "creator"})
    forged = Document(stored.id, stored.partition_key, stored.rev, BOGUS_ETAG, stored.body)
    result = probe.update(stored, {"by": "intruder"}, etag=BOGUS_ETAG, known=forged)
    probe.expect_refused(result, stored)
    probe.expect_refused(probe.update(stored, {"by": "intruder"}, etag=BOGUS_ETAG), stored)


def a_matching_etag_writes_with_the_next_rev_and_a_new_etag(probe: Probe) -> None:
    first = probe.new({"state": "ready", "kept": 1})
    expect(first.rev == 1, f"a new document has rev {first.rev}, not 1")
    second = probe.written(first, {"state": "leased"})
    expect(second.rev == 2, f"the update of rev 1 gave rev {second.rev}")
    expect(second.etag != first.etag, "the update kept the etag")
    expect(dict(second.body) == {"state": "leased", "kept": 1}, f"the merge gave {second.body}")
    expect(probe.stored(first) == second, "the answer is not what is stored")


def a_matching_rev_writes(probe: Probe) -> None:
    first = probe.new({"n": 0})
    probe.update(first, {"n": 1}, rev=1)
    expect(probe.stored(first).body.get("n") == 1, "an update with the current rev did not write")


def a_known_document_makes_no_other_version_do(probe: Probe) -> None:
    stored = probe.new({"n": 0})
    probe.expect_refused(probe.update(stored, {"n": 1}, etag=BOGUS_ETAG, known=stored), stored)
    probe.expect_refused(probe.update(stored, {"n": 1}, etag=stored.etag, rev=2, known=stored), stored)
    probe.expect_refused(probe.update(stored, {"n": 1}, rev=2, known=stored), stored)


def a_known_document_saves_a_read_and_changes_nothing_else(probe: Probe) -> None:
    first = probe.new({"n": 0, "kept": [1]})
    probe.update(first, {"n": 1}, etag=first.etag, rev=1, known=first)
    expect(dict(probe.stored(first).body) == {"n": 1, "kept": [1]}, "an update with a known document lost fields")


def a_stale_etag_conflicts_and_writes_nothing(probe: Probe) -> None:
    stale = probe.new({"n": 0})
    stored = probe.written(stale, {"n": 1})
    probe.expect_refused(probe.update(stale, {"n": 2}, etag=stale.etag), stored)
    probe.expect_refused(probe.update(stale, {"n": 2}, etag=stale.etag, known=stale), stored)


def a_stale_rev_conflicts_and_writes_nothing(probe: Probe) -> None:
    stale = probe.new({"n": 0})
    stored = probe.written(stale, {"n": 1})
    probe.expect_refused(probe.update(stale, {"n": 2}, rev=1), stored)
    probe.expect_refused(probe.update(stale, {"n": 2}, rev=1, known=stale), stored)
    probe.expect_refused(probe.update(stale, {"n": 2}, rev=3), stored)


def an_etag_and_a_rev_must_both_match(probe: Probe) -> None:
    stored = probe.new({"n": 0})
    probe.expect_refused(probe.update(stored, {"n": 1}, etag=stored.etag, rev=2), stored)
    probe.expect_refused(probe.update(stored, {"n": 1}, etag=BOGUS_ETAG, rev=1), stored)
    probe.update(stored, {"n": 1}, etag=stored.etag, rev=1)
    expect(probe.stored(stored).rev == 2, "an update with the current etag and rev did not write")


def a_missing_document_is_not_found(probe: Probe) -> None:
    there = probe.new()
    missing = probe.new_id()
    store, partition_key = probe.store, probe.partition_key
    expect(store.read(missing, partition_key) == NotFound(), "reading nothing gave something")
    expect(store.read(there.id, f"{partition_key}:other") == NotFound(), "a read ignored the partition key")
    expected = Expected(rev=1)
    expect(store.update_if_match(missing, partition_key, expected, {}) == NotFound(), "an update made a document")
    expect(store.read(missing, partition_key) == NotFound(), "an update made a document")


def an_update_without_an_expectation_is_refused(probe: Probe) -> None:
    stored = probe.new()
    try:
        probe.update(stored, {"n": 1})
    except ValueError:
        expect(probe.stored(stored) == stored, "an unconditional update wrote")
    else:
        expect(False, "an update without etag and rev was accepted")


def a_second_create_conflicts_and_writes_nothing(probe: Probe) -> None:
    stored = probe.new({"by": "first"})
    result = probe.store.create(stored.id, stored.partition_key, {"by": "second"})
    expect(isinstance(result, Conflict), f"a second create answered {result}")
    expect(probe.stored(stored) == stored, "a second create changed the document")
    if isinstance(result, Conflict) and result.current is not None:
        expect(result.current == stored, "the conflict showed another version than the stored one")


def an_etag_is_never_given_twice(probe: Probe) -> None:
    versions = [probe.new({"n": 0}), probe.new({"n": 0})]
    for _ in range(8):
        versions.append(probe.written(versions[-1], {"n": 0}))  # the same content: the etag is no hash of it
    expect(len({version.etag for version in versions}) == len(versions), "an etag was given twice")


def writes_of_a_batch_are_there_after_it(probe: Probe) -> None:
    with probe.store.batch():
        first = probe.new({"n": 0})
        second = probe.written(first, {"n": 1})
        other = probe.new()
        expect(probe.stored(first) == second, "a batch does not read its own writes")
    expect(probe.stored(first) == second, "a write of a batch is gone after it")
    expect(probe.stored(other) == other, "a create of a batch is gone after it")


def what_lies_ahead_of_a_batch_is_read_as_it_is(probe: Probe) -> None:
    first, second = probe.new({"n": 0}), probe.new({"n": 0})
    keys = [(each.id, each.partition_key) for each in (first, second)]
    with probe.store.batch(lambda: [*keys, ("nowhere", first.partition_key), (first.id, "nowhere")]):
        expect(probe.stored(second) == second, "a document that lies ahead is read as another one")
        written = probe.written(first, {"n": 1})
        expect(probe.stored(first) == written, "a document that lies ahead is read as it was before its own batch")
        for key in (("nowhere", first.partition_key), (first.id, "nowhere")):
            expect(probe.store.read(*key) == NotFound(), f"{key} lies ahead, and is found though there is none")
    expect(probe.stored(first) == written, "a write of a batch with reads ahead is gone after it")


WRITES = (
    a_bogus_etag_conflicts_and_writes_nothing,
    a_matching_etag_writes_with_the_next_rev_and_a_new_etag,
    a_matching_rev_writes,
    a_known_document_makes_no_other_version_do,
    a_known_document_saves_a_read_and_changes_nothing_else,
    a_stale_etag_conflicts_and_writes_nothing,
    a_stale_rev_conflicts_and_writes_nothing,
    an_etag_and_a_rev_must_both_match,
    a_missing_document_is_not_found,
    an_update_without_an_expectation_is_refused,
    a_second_create_conflicts_and_writes_nothing,
    an_etag_is_never_given_twice,
    writes_of_a_batch_are_there_after_it,
    what_lies_ahead_of_a_batch_is_read_as_it_is,
)
