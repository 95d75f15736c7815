"""A batch on a store that is waited for: what is about different jobs goes on at once, the rest in its order."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Barrier, BrokenBarrierError, Event, Lock
from typing import Any, NoReturn, TypeAlias

import pytest
import redis
from msgspec import structs

from broker import side_by_side
from broker.controls import FLEET_ID, Controls
from broker.coordinator import Settlement
from broker.messages import REQUESTS, Request
from broker.settle import settle
from broker.side_by_side import Errand
from broker.slot_turns import SlotTurns
from datastore.errors import Unavailable
from datastore.interface import Conflict, Expected, Patch, ReadResult, UpdateResult
from datastore.memory import MemoryDatastore
from tests.concurrency.race import NOW, context, new_job
from tests.in_process import InProcess
from tests.twins.forwarding import Forwarding
from tests.twins.meeting import ThreadMeeting

AT_ONCE = 16
DEADLINE_S = 60
ALONE_S = 0.05
"""How long a call waits for another that, where the order is kept, never comes."""

Settling: TypeAlias = Callable[..., list[list[Settlement]]]


class Waited(Forwarding):
    """A store whose calls are worth making at once."""

    @property
    def concurrency(self) -> int:
        return AT_ONCE

    @property
    def update_each(self) -> NoReturn:
        raise AttributeError("of several updates each is a call of its own")


class Gathering(Waited):
    """Reads of the jobs named in `awaited` are answered once `AT_ONCE` of them are under way, and else never."""

    awaited: frozenset[str] = frozenset()

    def __init__(self, *, at_once_max: int, deadline_s: float) -> None:
        super().__init__(MemoryDatastore())
        self._at_once_max = at_once_max
        self._together = Barrier(AT_ONCE, timeout=deadline_s)
        self._lock = Lock()
        self._under_way = 0
        self.most = 0

    @property
    def concurrency(self) -> int:
        return self._at_once_max

    def read(self, id: str, partition_key: str) -> ReadResult:
        if id not in self.awaited:
            return super().read(id, partition_key)
        with self._lock:
            self._under_way += 1
            self.most = max(self.most, self._under_way)
        try:
            self._together.wait()
            return super().read(id, partition_key)
        except BrokenBarrierError as error:
            raise Unavailable("the others did not come") from error
        finally:
            with self._lock:
                self._under_way -= 1


class Overtaken(Waited):
    """The first read of a document waits for the write that should come after it: of `overtakers[id]`."""

    def __init__(self, inner: MemoryDatastore, overtakers: Mapping[str, str], alone_s: float) -> None:
        super().__init__(inner)
        self._alone_s = alone_s
        self._overtakers = dict(overtakers)
        self._written = {id: Event() for id in overtakers.values()}

    def read(self, id: str, partition_key: str) -> ReadResult:
        overtaker = self._overtakers.pop(id, None)
        if overtaker is not None:
            self._written[overtaker].wait(self._alone_s)
        return super().read(id, partition_key)

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        result = super().update_if_match(id, partition_key, expected, patch)
        if id in self._written:
            self._written[id].set()
        return result


class Fought(Waited):
    """Whoever is first to change a slot waits for another to change the same version. Counts the races lost there."""

    def __init__(self, inner: MemoryDatastore, *, alone_ms: int) -> None:
        super().__init__(inner)
        self._meeting = ThreadMeeting(alone_ms=alone_ms)
        self.lost = 0

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        is_slot = id.startswith("slot:")
        if is_slot and expected.known is not None and expected.known.rev == 1:
            self._meeting((partition_key, id, 1))
        result = super().update_if_match(id, partition_key, expected, patch)
        self.lost += is_slot and isinstance(result, Conflict)
        return result


def without_order(
    act: Callable[[Errand], Settlement], errands: Sequence[Sequence[Errand]], *, at_once_max: int
) -> list[list[Settlement]]:
    """The broken twin: everything at once, whatever it is about."""
    row = [errand for some in errands for errand in some]
    return [[found] for found in side_by_side.each(act, row, at_once_max=at_once_max)]


def ask(op: str, *, factory: str = "f", request_id: str, **body: Any) -> Request:
    envelope = {"op": op, "request_id": request_id, "factory_id": factory, "incarnation": "i", "instance": "x"}
    return REQUESTS.validate_python({**envelope, "body": body})


def settled(
    settling: Settling, store: Waited, requests: Sequence[Request], *, turns: SlotTurns | None = None
) -> list[str]:
    """The words of the answers of one batch."""
    here = structs.replace(context(store), controls=Controls(store), turns=turns)
    found = settling(
        lambda errand: settle(here, errand[0], now_ms=NOW),
        [[(request, None)] for request in requests],
        at_once_max=store.concurrency,
    )
    return [only.answer.word.value for [only] in found]


def gathered(redis_client: redis.Redis, store: Gathering, claims: int) -> set[str]:
    """The answers to one batch of so many claims, each of a job of its own."""
    broker = InProcess(store, redis_client)
    jobs = [f"job-{number}" for number in range(claims)]
    broker.submit(*jobs)
    store.awaited = frozenset(jobs)
    return {reply["answer"] for reply in broker.ask(*(broker.caller.make("claim", job_id=job) for job in jobs))}


def test_a_batch_of_claims_reads_sixteen_jobs_at_once_and_never_more(redis_client: redis.Redis) -> None:
    store = Gathering(at_once_max=AT_ONCE, deadline_s=DEADLINE_S)
    assert gathered(redis_client, store, 3 * AT_ONCE) == {"granted"}
    assert store.most == AT_ONCE


def test_one_after_the_other_the_same_claims_never_meet(redis_client: redis.Redis) -> None:
    store = Gathering(at_once_max=1, deadline_s=ALONE_S)
    assert gathered(redis_client, store, AT_ONCE) == {"throttled"}
    assert store.most == 1


def two_claims_of_each(settling: Settling, *, alone_s: float = ALONE_S) -> list[str]:
    """Of eight jobs, as many as all can be in hand at once; the second could win only by overtaking the first."""
    inner = MemoryDatastore()
    jobs = [new_job(inner) for _ in range(AT_ONCE // 2)]
    claims = [ask("claim", job_id=job, factory=who, request_id=f"{who}-{job}") for job in jobs for who in ("a", "b")]
    return settled(settling, Overtaken(inner, {job: job for job in jobs}, alone_s), claims)


def test_of_two_claims_of_one_job_in_a_batch_the_first_is_granted() -> None:
    assert two_claims_of_each(side_by_side.settled) == ["granted", "conflict"] * (AT_ONCE // 2)


def test_without_an_order_the_second_claim_takes_the_job() -> None:
    assert "conflict" in two_claims_of_each(without_order, alone_s=DEADLINE_S)[::2]


def renewals_before_their_ends(settling: Settling, *, alone_s: float = ALONE_S) -> list[str]:
    """A batch that renews and then completes what is held: a renewal that comes after the end is lost."""
    inner = MemoryDatastore()
    jobs = [new_job(inner) for _ in range(AT_ONCE // 2)]
    claims = [settle(context(inner), ask("claim", job_id=job, request_id=job), now_ms=NOW) for job in jobs]
    fences = [{name: each.answer.body[name] for name in ("job_id", "epoch", "token")} for each in claims]
    batch = [ask(op, request_id=f"{op}-{n}", **fence) for op in ("renew", "complete") for n, fence in enumerate(fences)]
    return settled(settling, Overtaken(inner, {job: job for job in jobs}, alone_s), batch)


def test_a_renewal_and_the_end_behind_it_both_count() -> None:
    words = renewals_before_their_ends(side_by_side.settled)
    assert words == ["renewed"] * (AT_ONCE // 2) + ["ok"] * (AT_ONCE // 2)


def test_without_an_order_a_renewal_is_lost_to_the_end_behind_it() -> None:
    assert "lease_lost" in renewals_before_their_ends(without_order, alone_s=DEADLINE_S)


def claims_around_an_operator(settling: Settling, *, alone_s: float = ALONE_S) -> list[str]:
    """An operator pauses the queue behind some claims, and holds a job before it is claimed."""
    inner = MemoryDatastore()
    before = [new_job(inner) for _ in range(4)]
    held = new_job(inner)
    batch = [
        *(ask("claim", job_id=job, request_id=job) for job in before),
        ask("pause_queue", queue="default", request_id="pause"),
        ask("hold", job_id=held, request_id="hold"),
        ask("claim", job_id=held, request_id="late"),
    ]
    return settled(settling, Overtaken(inner, dict.fromkeys(before, FLEET_ID), alone_s), batch)


def test_an_operator_comes_after_what_stands_before_and_before_what_stands_behind() -> None:
    words = claims_around_an_operator(side_by_side.settled)
    assert words == ["granted"] * 4 + ["ok", "ok", "not_claimable"]


def test_without_an_order_an_operators_pause_reaches_back() -> None:
    words = claims_around_an_operator(without_order, alone_s=DEADLINE_S)
    assert "not_claimable" in words[:4]


def races_lost_for_one_slot(*, turns: SlotTurns | None, alone_ms: int) -> int:
    """Two jobs that share a lock are claimed in one batch; both get it."""
    inner = MemoryDatastore()
    claims = [ask("claim", job_id=new_job(inner, locks=("repo:web@shared",)), request_id=f"c{n}") for n in range(2)]
    store = Fought(inner, alone_ms=alone_ms)
    assert settled(side_by_side.settled, store, claims, turns=turns) == ["granted"] * 2
    return store.lost


def test_claims_of_one_batch_that_need_one_slot_do_not_fight_for_it() -> None:
    assert races_lost_for_one_slot(turns=SlotTurns(), alone_ms=50) == 0


def test_without_turns_they_do() -> None:
    assert races_lost_for_one_slot(turns=None, alone_ms=DEADLINE_S * 1_000) > 0


def test_leases_of_one_message_are_renewed_at_once() -> None:
    inner = MemoryDatastore()
    jobs = [new_job(inner) for _ in range(AT_ONCE)]
    store = Gathering(at_once_max=AT_ONCE, deadline_s=DEADLINE_S)
    store.inner = inner
    grants = [settle(context(inner), ask("claim", job_id=job, request_id=job), now_ms=NOW) for job in jobs]
    leases = [{name: each.answer.body[name] for name in ("job_id", "epoch", "token")} for each in grants]
    store.awaited = frozenset(jobs)
    renewed = settle(context(store), ask("renew_many", request_id="all", leases=leases), now_ms=NOW)
    assert [result["answer"] for result in renewed.answer.body["results"]] == ["renewed"] * AT_ONCE


@pytest.mark.parametrize("at_once_max", [1, AT_ONCE])
def test_what_is_raised_is_raised_and_leaves_no_thread_behind(at_once_max: int) -> None:
    def act(number: int) -> int:
        if number == 3:
            raise BrokenBarrierError
        return number

    with pytest.raises(BrokenBarrierError):
        side_by_side.each(act, range(8), at_once_max=at_once_max)
    assert side_by_side.each(partial(max, 5), range(8), at_once_max=at_once_max) == [5, 5, 5, 5, 5, 5, 6, 7]
