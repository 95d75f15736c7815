"""A burst of jobs and a crowd that waits, each with offers of its own: what is said and looked at does not multiply."""

import random
from collections.abc import Sequence

import pytest

from broker import claim_next, waking
from broker.index import encode_job_terms
from broker.messages import Claim
from tests.caller import Caller
from tests.in_process import InProcess
from tests.integration.test_recalled_claims import calls

pytestmark = pytest.mark.redis

WAIT_MS = 60_000
CROWD = 300
BURST = 64
LONG = "x" * 128
TOOLS = ("cpu", "gcc", "gpu", "rust")


def park(broker: InProcess, *each_offers: Sequence[str], apart_ms: int = 1, factories: int = 1_000) -> None:
    """A claim with each of these offers waits, the first since longest; of so many factories in turn."""
    with broker.redis.pipeline(transaction=False) as pipe:
        for number, offers in enumerate(each_offers):
            caller = Caller(broker.redis, f"mac-{number % factories}")
            claim = caller.make("claim", request_id=f"r{number}", offers=offers, wait_ms=WAIT_MS)
            assert type(claim) is Claim
            claim_next.park(pipe, claim, broker.clock.now_ms() + number // apart_ms)
        pipe.execute()


def submit_burst(broker: InProcess, *requires: Sequence[str]) -> None:
    """One batch of jobs, and no more than that."""
    broker.caller.send(*(broker.caller.make("submit", requires=terms) for terms in requires))
    broker.finish(broker.settle(broker.take().entries))


def bytes_in(broker: InProcess) -> int:
    """What everybody has said to Redis."""
    return int(broker.redis.info("stats")["total_net_input_bytes"])


def woken(broker: InProcess) -> list[bytes | str]:
    return broker.redis.lrange("broker:in:claims", 0, -1)


def test_a_burst_of_jobs_looks_once_at_who_stands_first_among_those_who_offer_the_same(broker: InProcess) -> None:
    park(broker, *([f"host={number}"] for number in range(CROWD)))
    before = calls(broker, "zrange")
    submit_burst(broker, *[()] * BURST)
    assert len(woken(broker)) == BURST
    assert calls(broker, "zrange") - before <= CROWD + BURST, "each job had looked at all of them"


def test_who_waits_is_named_once_for_a_burst_of_jobs_however_long_its_offers_and_many_kinds_of_jobs(
    broker: InProcess,
) -> None:
    park(broker, *([f"host={number}", *(f"tool-{tool}={LONG}" for tool in range(8))] for number in range(CROWD)))
    before = bytes_in(broker)
    submit_burst(broker, *([f"tool-{number % 8}"] for number in range(BURST)))
    assert len(woken(broker)) == BURST
    said = bytes_in(broker) - before
    assert said < 4 * CROWD * 8 * len(LONG), "each name of 1 KB was said for each job"


@pytest.mark.parametrize("seed", range(20))
def test_jobs_that_become_ready_together_wake_whom_they_would_wake_one_after_the_other(
    broker: InProcess, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    offers = [chance.sample(TOOLS, chance.randint(0, 4)) for _ in range(24)]
    prefers = [(), (("gpu", 1),), (("gpu", 2), ("rust", 3))]
    kinds = [encode_job_terms((tool,), chance.choice(prefers)) for tool in TOOLS] + [encode_job_terms((), prefers[2])]
    kinds += [f"mac-{number}:{chance.choice(kinds)}" for number in range(4)]
    ready = [("default", chance.choice(kinds)) for _ in range(16)]
    monkeypatch.setattr(waking, "BYTES_MAX", chance.choice((200, waking.BYTES_MAX)))
    monkeypatch.setattr(waking, "AT_ONCE", chance.choice((2, waking.AT_ONCE)))

    park(broker, *offers, apart_ms=3, factories=6)
    for wants in ready:
        waking.wake(broker.redis, [wants])
    expected = woken(broker)
    broker.redis.flushall()
    park(broker, *offers, apart_ms=3, factories=6)
    assert waking.wake(broker.redis, ready) == len(expected)
    assert woken(broker) == expected


def test_a_burst_beyond_what_one_call_may_look_for_wakes_as_many_as_there_are_jobs(broker: InProcess) -> None:
    jobs = 3 * waking.AT_ONCE + 1
    park(broker, *([f"host={number % 7}"] for number in range(jobs + 1)))
    assert waking.wake(broker.redis, [("default", encode_job_terms((), ()))] * jobs) == jobs
    assert broker.redis.hlen(claim_next.WAITING) == 1


def test_a_burst_of_jobs_that_are_kept_for_a_factory_looks_at_its_claims_once(broker: InProcess) -> None:
    park(broker, *([f"host={number}"] for number in range(CROWD)), factories=2)
    kinds = [encode_job_terms((f"host={number}",), ()) for number in (CROWD - 2, CROWD - 1, 0)]
    before = calls(broker, "hget")
    assert waking.wake(broker.redis, [("default", f"mac-0:{terms}") for terms in kinds * BURST]) == 2
    assert calls(broker, "hget") - before == CROWD // 2 + 2
    assert broker.redis.hlen(claim_next.WAITING) == CROWD - 2


def test_claims_of_many_factories_are_looked_at_in_several_calls(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waking, "ROUNDS_MAX", 2)
    park(broker, *([f"host={number}"] for number in range(12)), factories=4)
    ready = [("default", f"mac-{number}:[]") for number in (0, 1, 2, 3, 3, 2, 1, 0)]
    assert waking.wake(broker.redis, ready) == len(ready)


def test_claims_that_are_parked_together_name_each_set_of_jobs_once_as_they_look_again(broker: InProcess) -> None:
    with broker.redis.pipeline(transaction=False) as pipe:
        for number in range(CROWD):  # their jobs were claimed a moment ago
            pipe.sadd(
                "broker:ready:default:sets", encode_job_terms(tuple(f"tool-{tool}" for tool in range(number)), ())
            )
        pipe.execute()
    offers = [f"tool-{number}" for number in range(CROWD // 5)]
    claims = [broker.caller.make("claim", offers=[*offers, f"host={n}"], wait_ms=WAIT_MS) for n in range(BURST // 2)]
    broker.caller.send(*claims)
    settled = broker.settle(broker.take().entries)
    before = bytes_in(broker)
    broker.finish(settled)
    said = bytes_in(broker) - before
    assert broker.redis.hlen(claim_next.WAITING) == BURST // 2
    assert said < 500_000, "each claim had named each of them"
