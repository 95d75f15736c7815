"""When an entry of a slot may be taken out, by what a read of its job shows."""

import pytest

from broker.slots import CONFIRM_WITHIN_MS, ClaimKey, Holder, Mode, Slot, in_the_way, removable, wants

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
