"""A burst of jobs and a crowd that waits, each with offers of its own: what is said and looked at does not multiply."""

import json
import random
from collections.abc import Sequence
from functools import partial

import pytest

from broker import claim_next, parked_sets, waking
from broker.index import encode_job_terms, encode_terms
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


def long_offers(count: int) -> list[list[str]]:
    """Different ones, of more than a kilobyte each."""
    return [[f"host={number}", *(f"tool-{tool}={LONG}" for tool in range(8))] for number in range(count)]


def submit_burst(broker: InProcess, *requires: Sequence[str]) -> None:
    """One batch of jobs, and no more than that."""
    broker.caller.send(*(broker.caller.make("submit", requires=terms) for terms in requires))
    broker.finish(broker.settle(broker.take().entries))


def bytes_said(broker: InProcess) -> int:
    """What everybody has said to Redis, and Redis to everybody."""
    return bytes_in(broker) + int(broker.redis.info("stats")["total_net_output_bytes"])


def bytes_in(broker: InProcess) -> int:
    """What everybody has said to Redis."""
    return int(broker.redis.info("stats")["total_net_input_bytes"])


def wake(broker: InProcess, ready: Sequence[tuple[str, str]]) -> int:
    return waking.wake(broker.redis, ready, known=broker.context.known_offers)


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
    park(broker, *long_offers(CROWD))
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
        wake(broker, [wants])
    expected = woken(broker)
    broker.redis.flushall()
    park(broker, *offers, apart_ms=3, factories=6)
    assert wake(broker, ready) == len(expected)
    assert woken(broker) == expected


def test_a_burst_beyond_what_one_call_may_look_for_wakes_as_many_as_there_are_jobs(broker: InProcess) -> None:
    jobs = 3 * waking.AT_ONCE + 1
    park(broker, *([f"host={number % 7}"] for number in range(jobs + 1)))
    assert wake(broker, [("default", encode_job_terms((), ()))] * jobs) == jobs
    assert broker.redis.hlen(claim_next.WAITING) == 1


def test_a_burst_of_jobs_that_are_kept_for_a_factory_looks_at_its_claims_once(broker: InProcess) -> None:
    park(broker, *([f"host={number}"] for number in range(CROWD)), factories=2)
    kinds = [encode_job_terms((f"host={number}",), ()) for number in (CROWD - 2, CROWD - 1, 0)]
    before = calls(broker, "hget")
    assert wake(broker, [("default", f"mac-0:{terms}") for terms in kinds * BURST]) == 2
    assert calls(broker, "hget") - before == CROWD // 2 + 2
    assert broker.redis.hlen(claim_next.WAITING) == CROWD - 2


def test_claims_of_many_factories_are_looked_at_in_several_calls(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waking, "ROUNDS_MAX", 2)
    park(broker, *([f"host={number}"] for number in range(12)), factories=4)
    ready = [("default", f"mac-{number}:[]") for number in (0, 1, 2, 3, 3, 2, 1, 0)]
    assert wake(broker, ready) == len(ready)


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


def test_who_waits_with_long_offers_is_known_by_short_names_once_these_were_read(broker: InProcess) -> None:
    park(broker, *long_offers(CROWD))
    submit_burst(broker, ())
    before = bytes_said(broker)
    submit_burst(broker, ())
    assert broker.redis.hlen(claim_next.WAITING) == CROWD - 2
    assert bytes_said(broker) - before < CROWD * 200, "their offers take more than a kilobyte each"


def test_of_claims_of_an_heir_with_long_offers_one_that_fits_is_woken(broker: InProcess) -> None:
    park(broker, *long_offers(4), factories=2)
    assert wake(broker, [("default", 'mac-0:["host=2"]'), ("default", 'mac-0:["host=3"]')]) == 1
    [envelope] = woken(broker)
    assert json.loads(envelope)["body"]["offers"][0] == "host=2"


def test_a_call_names_so_many_bytes_of_sets_and_no_more(broker: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waking, "BYTES_MAX", 2 * len('broker:parked:default:in:["host=10"]'))
    park(broker, *([f"host={number}"] for number in range(13)))
    ready = [("default", encode_job_terms((f"host={number}",), ())) for number in range(13)]
    assert wake(broker, ready[12:]) == 1
    before = calls(broker, "evalsha")
    assert wake(broker, ready[:12]) == 12
    assert calls(broker, "evalsha") - before == 6


@pytest.mark.parametrize("offers", [[], ["gpu", 'quo"te', "back\\", "comma=, x"], [f"gpu={LONG}"]])
@pytest.mark.parametrize("first", ["parked_in", "envelope"])
def test_a_claim_of_an_heir_is_found_wherever_its_record_says_where_it_waits(
    broker: InProcess, first: str, offers: Sequence[str]
) -> None:
    park(broker, offers)
    [(id, text)] = broker.redis.hgetall(claim_next.WAITING).items()
    record = json.loads(text)
    broker.redis.hset(claim_next.WAITING, id, json.dumps({first: record[first], **record}))
    assert wake(broker, [("default", "mac-0:[]")]) == 1


def test_a_set_is_forgotten_with_the_last_claim_that_waited_in_it(broker: InProcess) -> None:
    park(broker, *long_offers(3), ["short"])
    broker.clock.advance(2 * WAIT_MS)
    assert claim_next.end_waits(broker.redis, broker.clock.now_ms()) == 4
    assert broker.redis.keys("broker:parked:*") == [], "short waits with ever other offers would fill it until a sweep"


def test_a_sweep_forgets_what_no_set_is_named_after_and_keeps_what_one_is(broker: InProcess) -> None:
    park(broker, *long_offers(2))
    broker.redis.hset(parked_sets.texts_key("default"), "#left", "[]")
    broker.sweep()
    assert broker.redis.hlen(parked_sets.texts_key("default")) == 2
    submit_burst(broker, (), ())
    assert len(woken(broker)) == 2


def test_a_claim_whose_set_has_lost_what_it_is_named_after_waits_again_as_it_is_sent_again(broker: InProcess) -> None:
    [offers] = long_offers(1)
    make = partial(broker.caller.make, "claim", request_id="r", offers=offers, wait_ms=WAIT_MS)
    broker.caller.send(make())
    broker.serve()
    broker.redis.delete(parked_sets.texts_key("default"))
    broker.sweep()
    broker.caller.send(claim := make(attempt=2))
    broker.serve()
    broker.submit("a")
    assert broker.caller.replies(claim, deadline_ms=1_000)[0]["answer"] == "granted"


def test_a_claim_that_waits_in_a_set_named_by_all_of_its_offers_is_woken(broker: InProcess) -> None:
    [offers] = long_offers(1)
    park(broker, offers)
    [(id, text)] = broker.redis.hgetall(claim_next.WAITING).items()
    record = json.loads(text)
    # As sets were named before there were digests.
    name = encode_terms(offers)
    in_full = f"broker:parked:default:in:{name}"
    broker.redis.rename(record["parked_in"], in_full)
    broker.redis.hset(claim_next.WAITING, id, json.dumps({**record, "parked_in": in_full}))
    broker.redis.delete("broker:parked:default:sets", parked_sets.texts_key("default"))
    broker.redis.sadd("broker:parked:default:sets", name)
    broker.sweep()
    submit_burst(broker, ())
    assert len(woken(broker)) == 1
