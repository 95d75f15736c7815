"""When an entry of a slot may be taken out, by what a read of its job shows."""

import pytest

from broker.slots import (
    CONFIRM_WITHIN_MS,
    HOLDERS_MAX,
    ClaimKey,
    Holder,
    Mode,
    Slot,
    Want,
    in_the_way,
    modes_of,
    removable,
    room_beside,
    unit_want,
    wants,
)

NOW = 1_700_000_000_000


def entry(*, confirmed: bool, age_ms: int = 0) -> Holder:
    """Of epoch 4 of its job."""
    return Holder(
        job_id="job", epoch=4, request_id="r", mode=Mode.EXCLUSIVE, taken_ms=NOW - age_ms, confirmed=confirmed
    )


def lease(epoch: int, request_id: str = "r") -> ClaimKey:
    return "job", epoch, request_id, ""


@pytest.mark.parametrize(
    ("epoch", "leased", "goes"),
    [
        pytest.param(4, lease(4), False, id="its lease stands"),
        pytest.param(4, None, True, id="its lease has ended"),
        pytest.param(5, lease(5), True, id="another lease followed"),
        pytest.param(3, lease(3), False, id="a stale read shows the lease before"),
        pytest.param(3, None, False, id="a stale read shows the job before its lease"),
        pytest.param(0, None, False, id="a stale read shows no job"),
    ],
)
def test_a_confirmed_entry_goes_only_where_its_lease_is_seen_to_be_over(
    epoch: int, leased: ClaimKey | None, goes: bool
) -> None:
    assert removable(entry(confirmed=True), epoch=epoch, leased=leased, now_ms=NOW) is goes


@pytest.mark.parametrize(("age_ms", "goes"), [(CONFIRM_WITHIN_MS, False), (CONFIRM_WITHIN_MS + 1, True)])
def test_an_unconfirmed_entry_goes_once_its_claim_must_have_been_written(age_ms: int, goes: bool) -> None:
    assert removable(entry(confirmed=False, age_ms=age_ms), epoch=3, leased=None, now_ms=NOW) is goes


def test_an_unconfirmed_entry_from_before_the_clock_was_set_back_does_not_keep_its_lock_until_then() -> None:
    ahead = entry(confirmed=False, age_ms=-3_600_000)
    assert removable(ahead, epoch=3, leased=None, now_ms=NOW)


@pytest.mark.parametrize("root", ["/", "/*", "/…", "//"])
def test_a_lock_on_the_root_excludes_what_lies_under_it(root: str) -> None:
    holders = tuple(Holder(job_id="a", epoch=1, request_id="r", mode=want.mode, taken_ms=NOW) for want in wants([root]))
    under = {want.key: want for want in wants(["/etc"])}
    [mine] = wants([root])
    assert in_the_way(Slot(key=mine.key, holders=holders), under[mine.key], "b") == list(holders)


def test_an_unconfirmed_entry_of_a_lease_that_stands_stays() -> None:
    old = entry(confirmed=False, age_ms=CONFIRM_WITHIN_MS * 2)
    assert not removable(old, epoch=4, leased=lease(4), now_ms=NOW)


def test_an_unconfirmed_entry_of_a_claim_that_lost_its_job_to_another_goes_though_the_job_is_leased() -> None:
    old = entry(confirmed=False, age_ms=CONFIRM_WITHIN_MS * 2)
    assert removable(old, epoch=4, leased=lease(4, "another"), now_ms=NOW)


def held(mode: Mode, count: int) -> Slot:
    holders = [Holder(job_id=f"j{number}", epoch=1, request_id="r", mode=mode, taken_ms=NOW) for number in range(count)]
    return Slot(key="k", holders=tuple(holders))


@pytest.mark.parametrize(
    ("slot", "want", "left"),
    [
        pytest.param(held(Mode.UNIT, 0), unit_want("k", 3), 2, id="the first of three units"),
        pytest.param(held(Mode.UNIT, 2), unit_want("k", 3), 0, id="the last of three"),
        pytest.param(held(Mode.UNIT, 5), unit_want("k", 3), 0, id="of a limit that was lowered meanwhile"),
        pytest.param(held(Mode.SHARED, 0), Want("k", Mode.EXCLUSIVE), 0, id="an exclusive lock"),
        pytest.param(held(Mode.INTENT_SHARED, 1), Want("k", Mode.SHARED), HOLDERS_MAX - 2, id="a shared lock"),
        pytest.param(held(Mode.INTENT_EXCLUSIVE, HOLDERS_MAX - 1), Want("k", Mode.INTENT_EXCLUSIVE), 0, id="the last"),
    ],
)
def test_a_slot_leaves_room_for_as_many_as_may_stand_beside_who_takes_it(slot: Slot, want: Want, left: int) -> None:
    assert room_beside(slot, want).count == left


def test_who_needs_a_slot_in_two_modes_waits_there_as_one_who_shares_it_with_nobody() -> None:
    assert modes_of(("a@shared", "a/b", "c/d", "e")) == {
        "a": Mode.EXCLUSIVE,
        "a/b": Mode.EXCLUSIVE,
        "c": Mode.INTENT_EXCLUSIVE,
        "c/d": Mode.EXCLUSIVE,
        "e": Mode.EXCLUSIVE,
    }
