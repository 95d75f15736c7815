"""What the claims-next of a batch are proposed: together, and yet each what it would have got by itself."""

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, cast
from unittest.mock import patch

import pytest
import redis

from broker import index, proposals
from broker.messages import Claim, Request
from broker.ready_sets import KEPT_MAX
from broker.scripts import Script
from datastore import connect
from tests.in_process import InProcess

pytestmark = pytest.mark.redis

Twin = Callable[[], AbstractContextManager[Any]]
TOOLS = ("gcc", "rust", "gpu")
JOBS = 40
CLAIMS = 48


def keeps_what_stood_first() -> AbstractContextManager[Any]:
    """A broker that looks at what stands first in a set once, whatever it takes out of it."""
    text = proposals._PROPOSE.text
    taken_out = "('ZREM', key, best)\n      return best"
    broken = text.replace(f"change{taken_out}", f"redis.call{taken_out}")
    assert broken != text
    return patch.object(proposals, "_PROPOSE", Script(broken))


def never_compares() -> AbstractContextManager[Any]:
    """A broker that takes the sets it saw last for those that are there."""
    ask = proposals._ask
    return patch.object(proposals, "_ask", lambda *args, as_seen, **options: ask(*args, as_seen=not as_seen, **options))


def counts_alone() -> AbstractContextManager[Any]:
    """A broker that takes as many sets for the same ones."""
    broken = proposals._PROPOSE.text.replace(" or state ~= queue.seen", "")
    assert broken != proposals._PROPOSE.text
    return patch.object(proposals, "_PROPOSE", Script(broken))


def forgets_in_silence() -> AbstractContextManager[Any]:
    """A broker whose sweep takes sets away, and nobody hears of it."""
    broken = index._TIDY.text.replace("redis.call('DEL', KEYS[2])", "")
    assert broken != index._TIDY.text
    return patch.object(index, "_TIDY", Script(broken))


@pytest.fixture
def start(redis_client: redis.Redis) -> Iterator[Callable[[], InProcess]]:
    """A broker that has nothing yet; the one before it is over."""
    stores = []

    def start() -> InProcess:
        redis_client.flushall()
        stores.append(connect("memory://"))
        return InProcess(stores[-1], redis_client)

    yield start
    for store in stores:
        store.close()


def got(broker: InProcess, seed: int, *, together: bool) -> list[str]:
    """What the same claims get of the same jobs: in one batch, or one after the other."""
    chance = random.Random(seed)
    for number in range(JOBS):
        fields: dict[str, Any] = {"priority": chance.choice((0, 0, 0, 2)), "queue": chance.choice(("a", "a", "b"))}
        fields["requires"] = chance.sample(TOOLS, chance.choice((0, 0, 1, 2)))
        fields["prefers"] = dict.fromkeys(chance.sample(TOOLS, chance.choice((0, 0, 1))), 50)
        if chance.random() < 0.6:
            fields["fairness_key"] = chance.choice("xyz")
        broker.submit(f"job-{number}", **fields)
        broker.clock.advance(chance.randrange(3))
    claims: list[Request] = []
    for _ in range(CLAIMS):
        offers = chance.sample(TOOLS, chance.randrange(4))
        claims.append(broker.caller.make("claim", queue=chance.choice(("a", "b")), offers=offers))
    replies = broker.ask(*claims) if together else [broker.ask(claim)[0] for claim in claims]
    return [reply["body"].get("job_id", reply["answer"]) for reply in replies]


def differs(start: Callable[[], InProcess], seed: int, twin: Twin = nullcontext) -> bool:
    alone = got(start(), seed, together=False)
    assert len({job for job in alone if job != "none_available"}) > JOBS // 2, "too little to tell anything"
    with twin():
        return got(start(), seed, together=True) != alone


@pytest.mark.parametrize("seed", range(20))
def test_claims_of_one_batch_get_what_they_would_get_one_after_the_other(
    start: Callable[[], InProcess], seed: int
) -> None:
    assert not differs(start, seed)


def test_a_broker_that_keeps_what_stood_first_is_noticed(start: Callable[[], InProcess]) -> None:
    assert any(differs(start, seed, keeps_what_stood_first) for seed in range(3))


def finds_every_job(broker: InProcess) -> bool:
    """Whether jobs are found whose requirements this worker has not met yet, or not for a while."""
    next_job = partial(broker.caller.make, "claim", offers=["gpu"])
    found = []
    for job, requires in (("plain", []), ("gpu", ["gpu"]), ("plain-2", []), ("gpu-2", ["gpu"])):
        broker.submit(job, requires=requires)
        found.append(broker.ask(next_job())[0]["body"].get("job_id") == job)
        broker.sweep()  # forgets sets that are empty
    return all(found)


def test_a_job_is_found_whose_requirements_its_worker_has_not_met_before(start: Callable[[], InProcess]) -> None:
    assert finds_every_job(start())


@pytest.mark.parametrize("twin", [never_compares, counts_alone, forgets_in_silence])
def test_a_broker_that_does_not_notice_other_sets_is_noticed(start: Callable[[], InProcess], twin: Twin) -> None:
    with twin():
        assert not finds_every_job(start())


def lost(broker: InProcess) -> None:
    broker.redis.flushall()


def removed(broker: InProcess) -> None:
    broker.redis.delete("broker:ready:default:sets", "broker:ready:default:state")


def another_type(broker: InProcess) -> None:
    broker.redis.delete("broker:ready:default:sets", "broker:ready:default:state")
    broker.redis.rpush("broker:ready:default:state", "x")


@pytest.mark.parametrize("happens", [lost, removed, another_type])
def test_as_many_sets_as_before_redis_lost_them_are_not_taken_for_the_same(
    start: Callable[[], InProcess], happens: Callable[[InProcess], None]
) -> None:
    broker = start()
    broker.submit("plain")
    claim = partial(broker.caller.make, "claim", offers=["gpu"])
    assert broker.ask(claim())[0]["answer"] == "granted"
    happens(broker)
    broker.submit("gpu", requires=["gpu"])
    assert broker.ask(claim())[0]["body"].get("job_id") == "gpu"


def test_sets_that_were_taken_away_by_hand_are_missed_until_the_next_sweep_at_most(
    start: Callable[[], InProcess],
) -> None:
    broker = start()
    broker.submit("plain")
    claim = partial(broker.caller.make, "claim", offers=["gpu"])
    assert broker.ask(claim())[0]["answer"] == "granted"
    broker.redis.delete("broker:ready:default:sets")
    broker.submit("gpu", requires=["gpu"])
    broker.sweep()
    assert broker.ask(claim())[0]["body"].get("job_id") == "gpu"


def test_of_queues_that_nobody_has_jobs_in_nothing_stays_for_ever(start: Callable[[], InProcess]) -> None:
    broker = start()
    told = broker.ask(*(broker.caller.make("claim", queue=f"made-up-{number}") for number in range(3)))
    assert [reply["answer"] for reply in told] == ["none_available"] * 3
    kept = list(broker.redis.scan_iter("broker:ready:*"))
    assert len(kept) == 3
    assert all(broker.redis.pttl(key) > 0 for key in kept)


def test_long_names_of_sets_that_nobody_in_a_batch_may_have_are_not_sent(start: Callable[[], InProcess]) -> None:
    broker = start()
    for number in range(20):
        broker.submit(f"job-{number}", requires=[f"{number}-{'x' * 50}-{part}" for part in range(16)])
    claim = partial(broker.caller.make, "claim", offers=[f"7-{'x' * 50}-{part}" for part in range(16)])
    assert broker.ask(claim())[0]["body"].get("job_id") == "job-7"
    asking = proposals.Asking(cast(Claim, claim()))
    question = proposals._question([asking], broker.context.ready_sets, step_ms=1)
    names = broker.context.ready_sets.of("default").names
    assert len(question) < 2_000 < max(map(len, names)) * len(names)


def test_what_is_asked_for_beyond_one_call_is_proposed_in_order(start: Callable[[], InProcess]) -> None:
    broker = start()
    for number in range(100):
        broker.submit(f"job-{number:03}")
        broker.clock.advance(1)
    claims = [broker.caller.make("claim", count=count) for count in (40, 40, 3, 40)]
    grants = [[grant["job_id"] for grant in reply["body"]["grants"]] for reply in broker.ask(*claims)]
    assert [len(each) for each in grants] == [40, 40, 3, 17]
    assert [job for each in grants for job in each] == [f"job-{number:03}" for number in range(100)]


def test_a_batch_is_asked_for_also_as_its_worker_forgets_the_sets_it_saw(start: Callable[[], InProcess]) -> None:
    broker = start()
    broker.submit("a", queue="a")
    claim = partial(broker.caller.make, "claim")
    assert broker.ask(claim(queue="a"))[0]["answer"] == "granted"
    broker.sweep()  # forgets the set of "a", which the worker does not know
    for number in range(KEPT_MAX - 1):
        broker.context.ready_sets.of(f"queue-{number}")
    told = broker.ask(claim(queue="a"), claim(queue="met-for-the-first-time"))
    assert [reply["answer"] for reply in told] == ["none_available"] * 2


def test_sets_that_nobody_of_ours_has_written_are_no_obstacle(start: Callable[[], InProcess]) -> None:
    broker = start()
    broker.submit("a", "b")
    broker.redis.sadd("broker:ready:default:sets", b"\xff", "no terms")
    assert [broker.ask(broker.caller.make("claim"))[0]["answer"] for _ in range(3)] == ["granted"] * 2 + [
        "none_available"
    ]
