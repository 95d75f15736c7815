"""A confirmed write's verdict is what really happened, for every fault, whatever happened meanwhile."""

from collections.abc import Callable, Sequence
from itertools import product

import msgspec
import pytest

from datastore import Conflict, Datastore, Document, Expected, NotFound, Ok, OutcomeUnknown, Rejected, Unavailable
from datastore.confirm import ATTEMPTS_MAX, WRITE_ID, confirmed_create, confirmed_update, confirmed_updates
from datastore.interface import CreateResult, Etag, Patch, ReadResult, Update, UpdateResult
from datastore.memory import MemoryDatastore
from tests.twins.forwarding import Forwarding, write_anyway
from tests.twins.lossy import Lossy, ReadFault, WriteFault
from tests.twins.several import OneByOne

OURS = "our-write"
LANDED = {WriteFault.LOST_ANSWER, WriteFault.OWN_CONFLICT, WriteFault.OWN_CONFLICT_SHOWN}
FAULTS = [fault for fault in WriteFault if fault not in (WriteFault.NONE, WriteFault.REFUSED)]
SILENT = [fault for fault in FAULTS if fault is not WriteFault.OWN_CONFLICT_SHOWN]
"""Those whose answer shows no document."""
EXPECTATIONS: dict[str, Callable[[Document], Expected]] = {
    "etag": lambda job: Expected(etag=job.etag),
    "rev": lambda job: Expected(rev=job.rev),
    "both": lambda job: Expected(etag=job.etag, rev=job.rev, known=job),
}


def put_job(store: Datastore) -> Document:
    """A job at rev 2, so that there is a stale version before it."""
    created = store.create("job", "job", {"state": "ready"})
    assert isinstance(created, Ok)
    updated = store.update_if_match("job", "job", Expected(rev=1), {WRITE_ID: "somebody's"})
    assert isinstance(updated, Ok)
    return updated.document


def update(store: Datastore, job: Document, kind: str = "etag") -> UpdateResult:
    return confirmed_update(store, "job", "job", EXPECTATIONS[kind](job), {"state": "ours"}, write_id=OURS)


def create(store: Datastore) -> CreateResult:
    return confirmed_create(store, "job", "job", {"state": "ours"}, write_id=OURS)


def overwrite(store: Datastore) -> None:
    """Somebody else's write; where nothing is stored yet it is a create."""
    if isinstance(write_anyway(store, "job", "job", {"state": "theirs", WRITE_ID: "theirs"}), NotFound):
        store.create("job", "job", {"state": "theirs", WRITE_ID: "theirs"})


def stored(store: Datastore) -> Document:
    found = store.read("job", "job")
    assert isinstance(found, Ok)
    return found.document


@pytest.mark.parametrize("kind", EXPECTATIONS)
@pytest.mark.parametrize("read", list(ReadFault), ids=lambda fault: fault.name)
@pytest.mark.parametrize("write", FAULTS, ids=lambda fault: fault.name)
def test_an_update_nobody_wrote_over_is_ok_and_applied_once(write: WriteFault, read: ReadFault, kind: str) -> None:
    inner = MemoryDatastore()
    job = put_job(inner)
    result = update(Lossy(inner, writes=[write], reads=[read]), job, kind)
    assert result == Ok(stored(inner))
    assert stored(inner).body["state"] == "ours"
    assert stored(inner).rev == job.rev + 1


@pytest.mark.parametrize("kind", EXPECTATIONS)
@pytest.mark.parametrize("read", list(ReadFault), ids=lambda fault: fault.name)
@pytest.mark.parametrize("write", FAULTS, ids=lambda fault: fault.name)
def test_an_update_that_somebody_wrote_over_is_a_conflict_that_shows_it(
    write: WriteFault, read: ReadFault, kind: str
) -> None:
    inner = MemoryDatastore()
    job = put_job(inner)
    store = Lossy(inner, writes=[write], reads=[read], meanwhile=lambda: overwrite(inner))
    assert update(store, job, kind) == Conflict(stored(inner))
    assert stored(inner).body["state"] == "theirs"
    assert stored(inner).rev == job.rev + (2 if write in LANDED else 1)


@pytest.mark.parametrize("read", list(ReadFault), ids=lambda fault: fault.name)
@pytest.mark.parametrize("write", FAULTS, ids=lambda fault: fault.name)
def test_a_create_nobody_wrote_over_is_ok_and_there_once(write: WriteFault, read: ReadFault) -> None:
    inner = MemoryDatastore()
    assert create(Lossy(inner, writes=[write], reads=[read])) == Ok(stored(inner))
    assert (stored(inner).rev, stored(inner).body["state"]) == (1, "ours")


@pytest.mark.parametrize("read", list(ReadFault), ids=lambda fault: fault.name)
@pytest.mark.parametrize("write", FAULTS, ids=lambda fault: fault.name)
def test_a_create_that_somebody_wrote_over_or_preceded_is_a_conflict_that_shows_it(
    write: WriteFault, read: ReadFault
) -> None:
    inner = MemoryDatastore()
    store = Lossy(inner, writes=[write], reads=[read], meanwhile=lambda: overwrite(inner))
    assert create(store) == Conflict(stored(inner))
    assert stored(inner).body["state"] == "theirs"


@pytest.mark.parametrize(("first", "second"), list(product(FAULTS, [*FAULTS, WriteFault.REFUSED])))
def test_two_faults_in_a_row_are_still_settled(first: WriteFault, second: WriteFault) -> None:
    for reads in product(ReadFault, repeat=2):
        inner = MemoryDatastore()
        job = put_job(inner)
        assert update(Lossy(inner, writes=[first, second], reads=reads), job) == Ok(stored(inner))
        assert stored(inner).rev == job.rev + 1


@pytest.mark.parametrize("reads", [ReadFault.STALE, ReadFault.FAILED], ids=lambda fault: fault.name)
@pytest.mark.parametrize("later", [*SILENT, WriteFault.REFUSED], ids=lambda fault: fault.name)
@pytest.mark.parametrize("first", SILENT, ids=lambda fault: fault.name)
def test_what_no_read_can_settle_stays_unknown_whatever_the_later_sends_say(
    first: WriteFault, later: WriteFault, reads: ReadFault
) -> None:
    inner = MemoryDatastore()
    job = put_job(inner)
    store = Lossy(inner, writes=[first, later, later], reads=[reads] * ATTEMPTS_MAX)
    with pytest.raises(OutcomeUnknown, match="same id"):
        update(store, job)
    assert store.writes_sent == ATTEMPTS_MAX


def test_a_refused_first_send_is_raised_as_it_is_and_not_sent_again() -> None:
    store = Lossy(MemoryDatastore(), writes=[WriteFault.REFUSED])
    job = put_job(store.inner)
    with pytest.raises(Unavailable):
        update(store, job)
    with pytest.raises(Unavailable):
        create(Lossy(MemoryDatastore(), writes=[WriteFault.REFUSED]))
    assert store.writes_sent == 1
    assert stored(store.inner) == job


def test_a_refusal_after_an_unknown_send_is_not_taken_for_nothing_written() -> None:
    faults = [WriteFault.LOST_ANSWER, WriteFault.REFUSED, WriteFault.REFUSED]
    store = Lossy(MemoryDatastore(), writes=faults, reads=[ReadFault.FAILED] * 3)
    with pytest.raises(OutcomeUnknown) as raised:
        create(store)
    assert isinstance(raised.value.__cause__, Unavailable)
    assert stored(store.inner).body[WRITE_ID] == OURS


def test_a_refusal_after_an_unexplained_conflict_is_not_taken_for_nothing_written() -> None:
    inner = MemoryDatastore()
    job = put_job(inner)
    faults = [WriteFault.OWN_CONFLICT, WriteFault.REFUSED, WriteFault.REFUSED]
    with pytest.raises(OutcomeUnknown):
        update(Lossy(inner, writes=faults, reads=[ReadFault.FAILED] * 3), job)


def test_a_lost_race_is_a_conflict_at_once() -> None:
    store = Lossy(MemoryDatastore())
    job = put_job(store.inner)
    overwrite(store.inner)
    assert update(store, job) == Conflict(stored(store.inner))
    assert create(store) == Conflict(stored(store.inner))
    assert store.writes_sent == 2


def test_a_missing_document_is_not_found() -> None:
    store = MemoryDatastore()
    assert confirmed_update(store, "job", "job", Expected(rev=1), {}, write_id=OURS) == NotFound()


def test_a_mark_that_stood_there_before_is_no_proof_of_this_write() -> None:
    inner = MemoryDatastore()
    assert isinstance(inner.create("job", "job", {WRITE_ID: OURS, "state": "ready"}), Ok)
    result = update(Lossy(inner, writes=[WriteFault.LOST_REQUEST]), stored(inner))
    assert result == Ok(stored(inner))
    assert stored(inner).body["state"] == "ours", "it was sent again, not believed"


PARTITION = "partition"
"""Another name than the document's: what looks for one under the other finds nothing."""


class Old(Forwarding):
    """Reads show the first version of a document, whatever came since."""

    def read(self, id: str, partition_key: str) -> ReadResult:
        found = self.inner.read(id, partition_key)
        return Ok(msgspec.structs.replace(found.document, rev=1, etag=Etag("old"))) if isinstance(found, Ok) else found


class Counting(Forwarding):
    """Counts reads."""

    reads = 0

    def read(self, id: str, partition_key: str) -> ReadResult:
        self.reads += 1
        return super().read(id, partition_key)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault in LANDED], ids=lambda fault: fault.name)
def test_what_one_read_settles_is_not_sent_again(fault: WriteFault) -> None:
    created, updated = Lossy(MemoryDatastore(), writes=[fault]), Lossy(MemoryDatastore(), writes=[fault])
    updated.inner.create("job", PARTITION, {"state": "ready"})
    new = confirmed_create(created, "job", PARTITION, {}, write_id=OURS)
    changed = confirmed_update(updated, "job", PARTITION, Expected(rev=1), {"state": "ours"}, write_id=OURS)
    assert isinstance(new, Ok)
    assert isinstance(changed, Ok)
    assert (new.document.rev, changed.document.body["state"]) == (1, "ours")
    assert (created.writes_sent, updated.writes_sent) == (1, 1)


def test_a_conflict_that_shows_the_other_version_needs_no_read() -> None:
    store = Counting(MemoryDatastore())
    job = put_job(store)
    overwrite(store.inner)
    assert isinstance(update(store, job), Conflict)
    assert isinstance(create(store), Conflict)
    assert store.reads == 0


def test_a_missing_document_is_not_looked_for_again() -> None:
    store = Lossy(MemoryDatastore())
    assert confirmed_update(store, "job", "job", Expected(rev=1), {}, write_id=OURS) == NotFound()
    assert store.writes_sent == 1


def test_a_document_that_is_missing_after_an_unknown_send_says_nothing_of_that_send() -> None:
    store = Lossy(MemoryDatastore(), writes=[WriteFault.LOST_REQUEST])
    with pytest.raises(OutcomeUnknown, match="'job': still open after 3 sends"):
        confirmed_update(store, "job", "job", Expected(rev=1), {}, write_id=OURS)
    with pytest.raises(OutcomeUnknown, match="'new': still open after 2 sends"):
        confirmed_create(
            Lossy(MemoryDatastore(), writes=[WriteFault.LOST_REQUEST] * 2),
            "new",
            "new",
            {},
            write_id=OURS,
            attempts_max=2,
        )


@pytest.mark.parametrize("kind", ["rev", "both", "known"])
def test_a_read_from_before_the_expected_version_shows_nothing(kind: str) -> None:
    inner = MemoryDatastore()
    job = put_job(inner)
    store = Lossy(Old(inner), writes=[WriteFault.LOST_REQUEST])
    expected = Expected(etag=job.etag, known=job) if kind == "known" else EXPECTATIONS[kind](job)
    assert confirmed_update(store, "job", "job", expected, {"state": "ours"}, write_id=OURS) == Ok(stored(inner))
    assert (store.writes_sent, stored(inner).body["state"]) == (2, "ours")


def test_another_version_of_the_same_number_is_another_writers() -> None:
    inner = MemoryDatastore()
    job = put_job(inner)
    store = Lossy(inner)
    expected = Expected(etag="of a document that was deleted", rev=job.rev)
    assert confirmed_update(store, "job", "job", expected, {}, write_id=OURS) == Conflict(job)
    assert store.writes_sent == 1


def test_the_pause_comes_before_each_further_send_and_knows_how_many_went_before() -> None:
    pauses: list[int] = []
    faults = [WriteFault.LOST_REQUEST] * 5
    store = Lossy(MemoryDatastore(), writes=faults)
    with pytest.raises(OutcomeUnknown):
        confirmed_create(store, "job", "job", {}, write_id=OURS, attempts_max=4, pause=pauses.append)
    assert pauses == [1, 2, 3]
    assert store.writes_sent == 4
    updates = Lossy(MemoryDatastore(), writes=faults)
    put_job(updates.inner)
    with pytest.raises(OutcomeUnknown):
        confirmed_update(updates, "job", "job", Expected(rev=2), {}, write_id=OURS, attempts_max=3, pause=pauses.append)
    assert pauses == [1, 2, 3, 1, 2]


@pytest.mark.parametrize("meanwhile", [False, True], ids=["nobody wrote over it", "somebody wrote over it"])
@pytest.mark.parametrize("write", [WriteFault.NONE, *FAULTS], ids=lambda fault: fault.name)
def test_of_several_each_verdict_is_what_happened_to_that_one(write: WriteFault, meanwhile: bool) -> None:
    inner = MemoryDatastore()
    names = ("first", "job", "last")
    jobs = [made.document for name in names if isinstance(made := inner.create(name, name, {"state": "ready"}), Ok)]
    faulty = Lossy(inner, writes=[WriteFault.NONE, write], meanwhile=lambda: overwrite(inner) if meanwhile else None)
    updates = [
        Update(job.id, job.id, Expected(job.etag, job.rev, job), {"state": "ours", WRITE_ID: f"of-{job.id}"})
        for job in jobs
    ]
    results = confirmed_updates(OneByOne(faulty), updates)
    lost = meanwhile and write is not WriteFault.NONE
    assert results[1] == (Conflict(stored(inner)) if lost else Ok(stored(inner)))
    assert stored(inner).body["state"] == ("theirs" if lost else "ours")
    for name, result in zip(names, results, strict=True):
        if name != "job":
            assert result == inner.read(name, name), "one that failed has harmed another"
            assert isinstance(result, Ok)
            assert (result.document.rev, result.document.body[WRITE_ID]) == (2, f"of-{name}")


def test_what_several_are_told_at_once_is_neither_looked_for_nor_sent_again() -> None:
    sent = Lossy(MemoryDatastore())
    job, store = put_job(sent.inner), Counting(sent)
    overwrite(sent.inner)
    updates = [Update(name, name, Expected(job.etag, job.rev, job), {WRITE_ID: OURS}) for name in ("job", "gone")]
    assert confirmed_updates(OneByOne(store), updates) == [Conflict(stored(sent.inner)), NotFound()]
    assert (store.reads, sent.writes_sent) == (0, 2)


class Shortened(Forwarding):
    """Broken: answers all but the last of several. Counts how often it is asked."""

    asked = 0

    def update_each(self, updates: Sequence[Update]) -> list[UpdateResult]:
        self.asked += 1
        return [
            self.update_if_match(each.id, each.partition_key, Expected.of(each.expected), each.patch)
            for each in updates[:-1]
        ]


def test_a_store_that_leaves_one_of_several_unanswered_is_not_taken_at_its_word() -> None:
    store = Shortened(MemoryDatastore())
    job = put_job(store)
    with pytest.raises(ValueError, match="shorter"):
        confirmed_updates(store, [Update("job", "job", Expected(job.etag), {WRITE_ID: OURS})] * 2)


def test_of_no_updates_a_store_hears_nothing() -> None:
    store = Shortened(MemoryDatastore())
    assert confirmed_updates(store, []) == []
    assert store.asked == 0


def test_several_that_were_certainly_not_written_are_told_so() -> None:
    inner = MemoryDatastore()
    job = put_job(inner)
    refusing = Lossy(inner, writes=[WriteFault.REFUSED])
    patch = {"state": "ours", WRITE_ID: OURS}
    for store in (refusing, OneByOne(Lossy(inner, writes=[WriteFault.REFUSED]))):
        [failure] = confirmed_updates(store, [Update("job", "job", Expected(job.etag), patch)])
        assert isinstance(failure, Unavailable)
    assert stored(inner) == job


class RefusesOne(Forwarding):
    """What is written to one document can't be stored."""

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        if id == "job":
            raise Rejected("scripted")
        return super().update_if_match(id, partition_key, expected, patch)


def test_one_of_several_that_can_t_be_stored_concerns_no_other() -> None:
    inner = MemoryDatastore()
    other = inner.create("other", "other", {})
    assert isinstance(other, Ok)
    jobs = [put_job(inner), other.document]
    updates = [Update(job.id, job.id, Expected(job.etag), {WRITE_ID: f"of-{job.id}"}) for job in jobs]
    refused, written = confirmed_updates(OneByOne(RefusesOne(inner)), updates)
    assert isinstance(refused, Rejected)
    assert written == inner.read("other", "other")
    assert isinstance(written, Ok)
    assert written.document.body[WRITE_ID] == "of-other"


def test_who_insists_on_a_document_insists_on_its_very_version_and_shows_it() -> None:
    document = Document("job", "p", 3, Etag("e"), {})
    assert Expected.of(document) == Expected(etag="e", rev=3, known=document)
    expected = Expected(rev=3)
    assert Expected.of(expected) is expected
