"""Requirements against offers: who may run which job."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.matching import Offered, Wants, canonical, unmet


def meets(offers: tuple[str, ...], requires: tuple[str, ...]) -> bool:
    return Wants.of(requires, ()).met_by(Offered(offers))


OFFERS = ("engine=codex", "engine=claude", "mem_gb=16", "gpu", "os=linux=5.15")


@pytest.mark.parametrize(
    "need",
    [
        "engine",
        "engine=codex",
        "engine=claude",
        "gpu",
        "mem_gb>=16",
        "mem_gb<=16",
        "mem_gb>15.5",
        "mem_gb<1e3",
        "mem_gb=16",
        "os=linux=5.15",
    ],
)
def test_a_need_is_met(need: str) -> None:
    assert meets(OFFERS, (need,))


@pytest.mark.parametrize(
    "need",
    [
        "engine=gemini",
        "engine=",
        "Engine",
        "mem_gb>16",
        "mem_gb<16",
        "mem_gb>=17",
        "mem_gb=16.0",  # equality is of texts, comparison of numbers
        "mem_gb>=lots",
        "mem_gb>=nan",
        "engine>=1",
        "gpu>=1",
        "disk",
        "disk=1",
        "disk<=1",
        "",
        "=codex",
        "!gpu",
    ],
)
def test_a_need_is_not_met(need: str) -> None:
    assert not meets(OFFERS, (need,))


def test_without_requirements_everybody_may() -> None:
    assert meets((), ())
    assert meets(OFFERS, ())


def test_every_requirement_must_be_met() -> None:
    assert meets(OFFERS, ("gpu", "engine=codex", "mem_gb>=8"))
    assert not meets(OFFERS, ("gpu", "engine=codex", "mem_gb>=32"))


def test_one_of_several_offered_values_is_enough() -> None:
    assert meets(("slot=1", "slot=9"), ("slot>=5",))
    assert meets(("slot=x", "slot=9"), ("slot>=5",))


TERMS = st.lists(st.sampled_from(["a", "b", "c", "a=1", "a=2", "b=x"]), max_size=8)


@settings(derandomize=True, database=None, deadline=None)
@given(TERMS, TERMS)
def test_order_and_repetition_make_no_difference(offers: list[str], requires: list[str]) -> None:
    assert canonical(offers) == canonical([*reversed(offers), *offers])
    assert meets(canonical(offers), canonical(requires)) == meets(tuple(reversed(offers)), tuple(requires * 2))


@settings(derandomize=True, database=None, deadline=None)
@given(TERMS, TERMS, TERMS)
def test_more_offers_never_hurt_and_more_requirements_never_help(
    offers: list[str], more: list[str], requires: list[str]
) -> None:
    if meets(tuple(offers), tuple(requires)):
        assert meets((*offers, *more), tuple(requires))
    else:
        assert not meets(tuple(offers), (*requires, *more))


KEYS = st.sampled_from(["a", "b", "a=b", "a>", "", " "])
SIGNS = st.sampled_from(["", "=", ">=", "<=", ">", "<"])
VALUES = st.sampled_from(["", "1", "2", "1.0", "x", "x=y", "\n", "1\n", ">1"])
SPELLED = st.tuples(KEYS, SIGNS, VALUES).map("".join)


@given(offers=st.lists(SPELLED, max_size=4).map(tuple), requires=st.lists(SPELLED, max_size=3).map(tuple))
@settings(max_examples=500, derandomize=True, database=None, deadline=None)
def test_what_a_job_wants_is_met_where_no_requirement_is_unmet(
    offers: tuple[str, ...], requires: tuple[str, ...]
) -> None:
    assert meets(offers, requires) == (not unmet(offers, requires))


def test_jobs_told_apart_by_a_value_take_no_offers_apart() -> None:
    hosts = [f"host=pinned-{number}" for number in range(100)]
    offered = Offered(("host=pinned-7", "os=linux"))
    assert [host for host in hosts if Wants.of((host, "os=linux"), ()).met_by(offered)] == ["host=pinned-7"]
    assert offered._values is None
    assert Wants.of(("host",), ()).met_by(offered)
    assert offered._values is not None


@given(
    offers=st.lists(SPELLED, max_size=4).map(tuple),
    prefers=st.lists(st.tuples(SPELLED, st.integers(1, 100)), max_size=4),
)
@settings(derandomize=True, database=None, deadline=None)
def test_the_weights_of_what_is_met_are_added_up_to_a_hundred(
    offers: tuple[str, ...], prefers: list[tuple[str, int]]
) -> None:
    met = sum(weight for term, weight in prefers if not unmet(offers, (term,)))
    assert Wants.of((), tuple(prefers)).preference(Offered(offers)) == min(100, met)
