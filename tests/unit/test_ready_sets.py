"""What a worker keeps of where jobs stand: bounded, and of the last look alone."""

import random
import tracemalloc
from collections.abc import Callable

import pytest

from broker import index, parked_sets, ready_sets
from broker.matching import canonical
from broker.ready_sets import FITTINGS_MAX, KEPT_MAX, Fitting, ReadySets

STEP_MS = 600_000
PLAIN, GPU, LIKES_GPU = "[]", '["gpu"]', '[[],{"gpu":50}]'


def test_of_a_queue_that_was_not_asked_for_no_set_is_known() -> None:
    assert ReadySets().of("builds").names == []


def test_a_factory_may_have_jobs_from_the_sets_that_its_offers_meet_and_is_ahead_where_it_is_preferred() -> None:
    seen = ReadySets().saw("builds", [name.encode() for name in (GPU, LIKES_GPU, PLAIN)])
    assert seen.names == sorted((PLAIN, GPU, LIKES_GPU))
    names = {offers: _named(seen.names, seen.fitting(offers, heir="", step_ms=STEP_MS)) for offers in ((), ("gpu",))}
    assert names == {(): {LIKES_GPU: 0, PLAIN: 0}, ("gpu",): {GPU: 0, LIKES_GPU: STEP_MS // 2, PLAIN: 0}}


def test_what_is_kept_for_a_factory_only_that_one_may_have_and_only_where_its_offers_meet_it() -> None:
    seen = ReadySets().saw("builds", [b"mac-1:" + GPU.encode(), b"mac-10:[]", PLAIN.encode()])
    assert [seen.heir(name) for name in ("mac-1", "mac-10", "mac-2", "")] == ["mac-1", "mac-10", "", ""]
    kept = {
        (heir, offers): sorted(_named(seen.names, seen.fitting(offers, heir=heir, step_ms=STEP_MS)))
        for heir in ("mac-1", "mac-10", "")
        for offers in ((), ("gpu",))
    }
    assert kept == {
        ("mac-1", ()): [PLAIN],
        ("mac-1", ("gpu",)): [PLAIN, f"mac-1:{GPU}"],
        ("mac-10", ()): [PLAIN, "mac-10:[]"],
        ("mac-10", ("gpu",)): [PLAIN, "mac-10:[]"],
        ("", ()): [PLAIN],
        ("", ("gpu",)): [PLAIN],
    }


def test_what_is_no_set_of_ours_is_left_out() -> None:
    seen = ReadySets().saw("builds", [b"\xff", b"no terms", PLAIN.encode()])
    assert _named(seen.names, seen.fitting((), heir="", step_ms=STEP_MS)) == {PLAIN: 0}


def test_only_the_last_look_counts() -> None:
    sets = ReadySets()
    assert _named(sets.saw("builds", [b"[]"]).names, sets.of("builds").fitting((), heir="", step_ms=STEP_MS)) == {
        PLAIN: 0
    }
    sets.saw("builds", [GPU.encode()])
    assert sets.of("builds").fitting((), heir="", step_ms=STEP_MS) == Fitting((), ())


@pytest.mark.parametrize("seed", range(20))
def test_whatever_sets_come_and_go_between_looks_those_fit_that_would_if_they_were_seen_first(seed: int) -> None:
    pick = random.Random(seed)
    names = [
        f"{heir}{index.encode_job_terms(requires, prefers)}".encode()
        for heir in ("", "mac-1:")
        for requires in ((), ("os=mac",), ("os",), ("cores>=4",), ("os=mac", "gpu"))
        for prefers in ((), (("gpu", 50),))
    ] + [b"\xff", b"no terms"]
    offered = [pick.sample(("os=mac", "gpu", "cores=8", "cores=2"), pick.randrange(4)) for _ in range(4)]
    sets = ReadySets()
    for _ in range(40):
        there = pick.sample(names, pick.randrange(len(names)))
        seen, first = sets.saw("q", there), ReadySets().saw("q", there)
        for offers in pick.sample(offered, 2):
            heir = first.heir(pick.choice(("mac-1", "mac-2")))
            found = [each.fitting(tuple(offers), heir=heir, step_ms=STEP_MS) for each in (seen, first)]
            assert found[0] == found[1]


def test_however_many_queues_and_offers_there_are_only_so_many_are_kept() -> None:
    sets = ReadySets()
    for number in range(3 * KEPT_MAX):
        sets.of(f"queue-{number}")
    for queue in ("builds", "tests", "checks"):
        seen = sets.saw(queue, [b"[]"])
        for number in range(FITTINGS_MAX // 2):
            assert seen.fitting((f"o={number}",), heir="", step_ms=STEP_MS).numbers == (1,)
    assert len(sets._queues) <= KEPT_MAX
    assert len(sets._fittings._kept) <= FITTINGS_MAX


def test_however_many_sets_fit_offers_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [index.encode_job_terms((), ((f"p{number}", 1),)).encode() for number in range(50)]
    monkeypatch.setattr(ready_sets, "FITTING_SETS_MAX", 200)
    sets = ReadySets()
    for look in range(3):
        queue = sets.saw("q", names)
        for number in range(20):
            fitting = queue.fitting((f"o{look}.{number}",), heir="", step_ms=1_000)
            assert queue.fitting((f"o{look}.{number}",), heir="", step_ms=1_000) is fitting, "for the next claim"
            assert len(fitting.numbers) == len(names)
            held = sum(len(each.fitting.numbers) for each in sets._fittings._kept.values())
            assert held == sets._fittings._sets <= 200 + len(names)


def test_nothing_is_kept_of_sets_that_are_gone_however_many_offers_they_fitted() -> None:
    sets, held = ReadySets(), []
    tracemalloc.start()
    for look in range(60):
        names = [f'[[],{{"p{look}.{number}.{"x" * 2_000}":1}}]'.encode() for number in range(50)]
        fitting = sets.saw("q", names).fitting((f"o{look}",), heir="", step_ms=1_000)
        assert len(fitting.numbers) == len(names)
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert held[-1] - held[29] < 1_000_000, "a claim that nobody asks for again kept three megabytes"


def _named(names: list[str], fitting: Fitting) -> dict[str, int]:
    return {
        names[number - 1]: bonus for number, bonus in zip(fitting.numbers, fitting.bonuses, strict=True)
    }  # counted from 1, as Lua does


@pytest.mark.parametrize(
    "work_out",
    [
        lambda terms: index.encode_job_terms(terms, ()),
        lambda terms: parked_sets._named(index.encode_terms(terms)),
    ],
    ids=["encode", "decode"],
)
def test_however_many_terms_nobody_has_sent_before_little_is_kept_of_them(
    work_out: Callable[[tuple[str, ...]], object],
) -> None:
    tracemalloc.start()
    for number in range(20_000):
        work_out(canonical(f"{number}-{term}={'x' * 150}" for term in range(16)))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 48_000_000
