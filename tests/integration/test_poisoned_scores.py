"""Scores that nobody of ours has written: the worst of them costs time, and no turn, job or wait for good."""

from collections.abc import Callable, Mapping

import pytest
import redis

from broker import demand, index, lock_waits, owed, presence, seen, silent, waiting
from broker.claim_next import WAIT_ENDS, claim_id, end_waits
from broker.messages import Claim
from broker.silent import stand_behind
from broker.wire_types import WAIT_MS_MAX
from tests.in_process import InProcess
from workers import left_behind
from workers.taking import WORKERS

pytestmark = pytest.mark.redis

INF = float("inf")
SCORES = [INF, 1e308, -1e308, -INF]
READY, PARKED = "broker:ready:default:in:[]", "broker:parked:default:in:[]"


def in_turns(broker: InProcess, claims: int) -> str:
    """Whose job each claim got, by the first letter of its name."""
    return "".join(broker.ask(broker.caller.make("claim"))[0]["body"]["job_id"][0] for _ in range(claims))


@pytest.mark.parametrize("score", SCORES)
def test_lanes_have_their_turns_though_one_was_served_at_the_end_of_time(broker: InProcess, score: float) -> None:
    broker.redis.zadd(index.served_key("default"), {"~0~b": score, "~0~x": score})
    for lane in "abc":
        broker.submit(*(f"{lane}-{number}" for number in range(4)), fairness_key=lane)
    assert sorted(in_turns(broker, 3)) == ["a", "b", "c"]
    broker.clock.advance(1)
    broker.submit(*(f"plain-{number}" for number in range(12)))
    assert "b" in in_turns(broker, 12), "jobs without a key do not go before it for ever"


PLACES: Mapping[str, Callable[[str], Mapping[str, str]]] = {
    "a job": lambda job: {READY: job},
    "a lane": lambda _job: {READY: "~0~k"},
    "a job of a lane": lambda job: {f"{index.LANE}{READY}~0~k": job},
    "a lane of a priority beyond numbers": lambda _job: {READY: f"~{'9' * 400}~k"},
}


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("place", PLACES)
def test_a_job_is_in_its_place_again_after_a_sweep(broker: InProcess, place: str, score: float) -> None:
    broker.submit("first", **({} if place == "a job" else {"fairness_key": "k"}))
    broker.clock.advance(1)
    broker.submit("second")
    for key, member in PLACES[place]("first").items():
        broker.redis.zadd(key, {member: score})
    broker.sweep()
    assert in_turns(broker, 2) == "fs"


HINTS: Mapping[str, Callable[[redis.Redis, float], object]] = {
    "a worker": lambda client, score: client.zadd(WORKERS, {"w8": score}),
    "who was heard of": lambda client, score: client.zadd(seen.SEEN, {"f": score}),
    "who asked": lambda client, score: client.zadd(demand.ASKED, {"f\ndefault": score}),
    "a run that is owed": lambda client, score: client.zadd(owed.OWED, {"one": score}),
    "a time to look at a slot": lambda client, score: client.zadd(lock_waits.TIMES, {"lock": score}),
    "a grant to look after": lambda client, score: client.zadd(presence.UNREAD, {"{}": score}),
    "the end of a wait": lambda client, score: client.zadd(WAIT_ENDS, {"f:r": score}),
    "a claim that waits": lambda client, score: (
        client.sadd("broker:parked:default:sets", "[]"),
        client.zadd(PARKED, {"f:r": score}),
    ),
    "a claim that waits and looks like a lane": lambda client, score: (
        client.sadd("broker:parked:default:sets", "[]"),
        client.zadd(PARKED, {"~0~x": score}),
    ),
}


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("case", HINTS)
def test_all_go_on(broker: InProcess, case: str, score: float) -> None:
    HINTS[case](broker.redis, score)
    ask, make = broker.ask, broker.caller.make
    broker.submit("one", "two")
    for job in ("one", "two"):
        [granted] = ask(make("claim", job_id=job))
        assert granted["answer"] == "granted"
        assert ask(make("explain", job_id=job))[0]["answer"] == "ok"
        assert ask(make("get_factory", factory="f"))[0]["answer"] in ("ok", "not_found")
        assert ask(make("list_factories"))[0]["answer"] == "ok"
        fence = {name: granted["body"][name] for name in ("job_id", "epoch", "token")}
        assert ask(make("complete", **fence))[0]["answer"] == "ok"
        end_waits(broker.redis, broker.clock.now_ms())
        left_behind.take_over(broker.redis, "w9", dead_after_ms=60_000, at_most=64)
        broker.sweep()


@pytest.mark.parametrize("score", SCORES)
def test_a_line_is_gone_over(broker: InProcess, score: float) -> None:
    HINTS["a claim that waits"](broker.redis, score)
    assert stand_behind(broker.redis, ["default"]) == (score < silent.BEHIND)
    assert broker.redis.zscore(PARKED, "f:r") >= silent.BEHIND  # type: ignore[operator]  # it is there


@pytest.mark.parametrize("score", SCORES)
def test_it_is_explained_why_a_job_waits(broker: InProcess, score: float) -> None:
    broker.submit("one", requires=["gpu"])
    broker.redis.zadd(demand.ASKED, {"f\ndefault": score})
    [told] = broker.ask(broker.caller.make("explain", job_id="one"))
    assert told["answer"] == "ok"


FOR_GOOD = pytest.mark.parametrize("score", [INF, 1e308])


@FOR_GOOD
def test_no_wait_lasts_longer_than_the_longest(broker: InProcess, score: float) -> None:
    claim = broker.caller.make("claim", wait_ms=1_000)
    assert type(claim) is Claim
    broker.caller.send(claim)
    broker.serve()
    broker.redis.zadd(WAIT_ENDS, {claim_id(claim): score})
    for _ in range(2):
        broker.sweep()
        broker.clock.advance(WAIT_MS_MAX)
    assert broker.caller.replies(claim, deadline_ms=1_000)[0]["answer"] == "none_available"


@FOR_GOOD
def test_places_that_nobody_has_keep_no_claim_from_waiting(broker: InProcess, score: float) -> None:
    places = {f"{broker.caller.factory}:{number}": score for number in range(broker.context.rules.waiting_max)}
    broker.redis.zadd(waiting.OF + broker.caller.factory, places)
    claim = broker.caller.make("claim", wait_ms=1_000)
    broker.caller.send(claim)
    broker.serve()
    assert not broker.caller.has_reply(claim), "it waits"


@FOR_GOOD
@pytest.mark.parametrize("key", [seen.SEEN, demand.ASKED])
def test_who_was_never_heard_of_is_not_shown_for_ever(broker: InProcess, key: str, score: float) -> None:
    broker.redis.zadd(key, {"f\ndefault": score})
    broker.sweep()
    assert not broker.redis.exists(key)
