"""Redis may lose anything: a request must be sent again, a sweep must run, and that is all it costs (I5, I8)."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from broker.index import INDEXED
from broker.messages import Request
from broker.proposals import IN_HAND_MS
from datastore import connect
from tests.caller import Caller, Reply
from tests.concurrency.race import read, runs_of
from tests.fleet import Fleet
from tests.in_process import SKEW_MS, TTL_MS, InProcess
from tests.processes import wait_for

SCHEDULED_MS = 5_000
ROUNDS_MAX = 12
FLUSHES = 4


class BusyFleet:
    """A broker in the middle of everything, always the same; then finished by clients that send again."""

    def __init__(self, broker: InProcess) -> None:
        self.broker = broker
        self.granted: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
        """Tokens by (job, epoch): two tokens are two holders."""
        self.open: dict[str, Request] = {}
        """Requests without a reply yet."""
        self._numbers = iter(range(10_000))

    def request(self, op: str, *, deadline_ms: int | None = None, **body: Any) -> Request:
        """A request whose id, and with it every key it leads to, is the same in each run."""
        id = f"{op}-{next(self._numbers)}"
        return self.broker.caller.make(op, request_id=id, deadline_ms=deadline_ms, **body)

    def send(self, *requests: Request, wire: Any = "rq") -> None:
        self.open |= {request.request_id: request for request in requests}
        self.broker.caller.send(*requests, wire=wire)

    def get_busy(self) -> None:
        """Jobs in every state, and requests in every place a request can be in."""
        broker, now_ms = self.broker, self.broker.clock.now_ms()
        self.send(*(self.request("submit", job_id=f"job-{number}") for number in range(6)))
        self.send(self.request("submit", job_id="gpu", requires=["gpu"]))
        self.send(self.request("submit", job_id="scheduled", not_before_ms=now_ms + SCHEDULED_MS))
        self.send(*(self.request("submit", job_id=f"locked-{number}", locks=["repo:web/src"]) for number in range(2)))
        self.send(self.request("submit", job_id="child", depends_on=["job-0"]))
        broker.serve()
        self.read()
        broker.sweep()
        self.send(self.request("claim", job_id="job-0"), self.request("claim", job_id="locked-0"))
        self.send(self.request("claim", job_id="locked-1"), self.request("claim"), self.request("claim"))
        broker.serve()  # answered, and not read yet
        self.send(self.request("claim", queue="empty", wait_ms=60_000))
        self.send(self.request("claim", offers=["fpga"], queue="other", wait_ms=60_000))
        broker.redis.rpush("broker:in:claims", "poison")
        broker.serve()
        for worker, settled in (("dies-early", False), ("dies-late", True)):
            for wire in ("rq", "intake"):
                self.send(self.request("claim"), wire=wire)
            hand = broker.take(worker)
            if settled:
                broker.settle(hand.entries, worker)
            broker.kill(worker)
        for wire in ("rq", "intake"):
            self.send(self.request("claim", job_id="gpu", offers=["gpu"]), wire=wire)
            self.send(self.request("submit", job_id=f"late-{wire}"), wire=wire)

    def read(self) -> None:
        """Take every reply that is there; note what was granted."""
        self.broker.caller.collect()
        answered = [id for id, request in self.open.items() if self.broker.caller.has_reply(request)]
        for id, reply in zip(answered, self.broker.caller.replies_to(answered), strict=True):
            del self.open[id]
            self._note(reply)

    def _note(self, reply: Reply) -> None:
        body = reply["body"]
        if "token" in body:
            self.granted[body["job_id"], body["epoch"]].add(body["token"])

    def recover(self) -> None:
        """What clients, workers and the sweep do anyway: send again, take over, sweep."""
        for attempt in range(2, ROUNDS_MAX):
            self.broker.take_over("w2")
            self.broker.serve("w2")
            self.broker.sweep()
            self.read()
            if not self.open:
                return
            self._wait_for_time_outs()
            again = [request.model_copy(update={"attempt": attempt}) for request in self.open.values()]
            self.broker.caller.send(*again)
        raise AssertionError(f"never answered: {sorted(self.open)}")

    def _wait_for_time_outs(self) -> None:
        """A client's patience; claims that wait end on the way, and so do marks, which go by the server's own clock."""
        self.broker.clock.advance(IN_HAND_MS + 1)
        for key in self.broker.redis.scan_iter(match="broker:settling:*"):
            self.broker.redis.delete(key)

    def finish(self) -> list[str]:
        """Complete what is held, claim and complete the rest; every job there is."""
        broker = self.broker
        for (job, epoch), tokens in sorted(self.granted.items()):
            assert len(tokens) == 1, f"{job} has two holders at epoch {epoch}"
            [token] = tokens
            broker.ask(self.request("complete", job_id=job, epoch=epoch, token=token))
        for _ in range(ROUNDS_MAX):
            broker.clock.advance(TTL_MS + SKEW_MS + 1)  # whoever was granted a job without knowing has lost it
            broker.sweep()
            for _ in range(40):
                [reply] = broker.ask(self.request("claim", offers=["gpu"]))
                if reply["answer"] != "granted":
                    break
                self._note(reply)
                lease = {name: reply["body"][name] for name in ("job_id", "epoch", "token")}
                assert broker.ask(self.request("complete", **lease))[0]["answer"] == "ok"
        return [document.id for document in broker.store.find({"kind": "job"}, limit=1_000).documents]


@pytest.fixture
def busy(redis_client: redis.Redis) -> Iterator[Callable[[], BusyFleet]]:
    """Starts the same busy fleet again, from nothing."""
    stores = []

    def start() -> BusyFleet:
        redis_client.flushall()
        stores.append(connect("memory://"))
        fleet = BusyFleet(InProcess(stores[-1], redis_client))
        fleet.get_busy()
        return fleet

    yield start
    for store in stores:
        store.close()


JOBS = {*(f"job-{n}" for n in range(6)), "gpu", "scheduled", "locked-0", "locked-1", "child", "late-rq", "late-intake"}


def everything_is_done_once(fleet: BusyFleet) -> None:
    fleet.recover()
    assert set(fleet.finish()) == JOBS
    for job in JOBS:
        found, runs = read(fleet.broker.store, job), runs_of(fleet.broker.store, job)
        assert found.state == "succeeded", f"{job} is {found.state}"
        assert [run.epoch for run in runs] == list(range(1, found.epoch + 1))
        assert [run.epoch for run in runs if run.outcome == "succeeded"] == [found.epoch]
    for (job, epoch), tokens in fleet.granted.items():
        assert len(tokens) == 1, f"{job} had two holders at epoch {epoch}"


def keys_of(fleet: BusyFleet) -> list[bytes]:
    return sorted(cast(list[bytes], fleet.broker.redis.keys("*")))


def test_a_fleet_that_loses_nothing_does_everything_once(busy: Callable[[], BusyFleet]) -> None:
    everything_is_done_once(busy())


def test_the_busy_fleet_has_every_kind_of_key(busy: Callable[[], BusyFleet]) -> None:
    # What the next test deletes one by one: a key that is missing here is never tried.
    keys = b"\n".join(keys_of(busy())).decode()
    for kind in (
        "broker:answer:",
        "broker:settling:",
        "broker:dead",
        "broker:in:claims",
        "broker:in:jobs",
        "broker:indexed",
        "broker:inflight:dies-early:rq",
        "broker:inflight:dies-late:intake",
        "broker:parked:empty:in:",
        "broker:parked:empty:sets",
        "broker:ready:default:in:",
        "broker:ready:default:sets",
        "broker:reply:",
        "broker:waiting",
        "broker:waiting:ends",
        "broker:waits:",
        "broker:workers",
        "rq:job:",
        "rq:queue:claims",
    ):
        assert kind in keys, f"{kind} is not among\n{keys}"


def test_any_single_key_may_be_lost(busy: Callable[[], BusyFleet]) -> None:
    for key in keys_of(busy()):
        fleet = busy()
        assert fleet.broker.redis.delete(key) == 1, f"{key!r} is not there every time"
        everything_is_done_once(fleet)


def test_every_key_of_one_kind_may_be_lost(busy: Callable[[], BusyFleet]) -> None:
    kinds = sorted({b":".join(key.split(b":")[:2]) for key in keys_of(busy())})
    assert len(kinds) > 8
    for kind in kinds:
        fleet = busy()
        for key in fleet.broker.redis.scan_iter(match=kind + b"*"):
            fleet.broker.redis.delete(key)
        everything_is_done_once(fleet)


def test_all_of_redis_may_be_lost(busy: Callable[[], BusyFleet]) -> None:
    fleet = busy()
    fleet.broker.redis.flushall()
    everything_is_done_once(fleet)


def test_all_of_redis_may_be_lost_at_every_step(busy: Callable[[], BusyFleet]) -> None:
    fleet = busy()
    for attempt in range(2, 6):
        fleet.broker.redis.flushall()
        fleet.broker.caller.send(*(each.model_copy(update={"attempt": attempt}) for each in fleet.open.values()))
        fleet.broker.serve()
        fleet.broker.redis.flushall()
        fleet.broker.sweep()
    everything_is_done_once(fleet)


def test_a_ready_a_leased_a_scheduled_job_and_a_waiter_outlive_a_flush(
    redis_client: redis.Redis, tmp_path: Path
) -> None:
    store = connect(f"sqlite:///{tmp_path}/jobs.db")
    broker = InProcess(store, redis_client)
    broker.submit("leased")
    claim = broker.caller.make("claim", job_id="leased")
    lease = {name: broker.ask(claim)[0]["body"][name] for name in ("job_id", "epoch", "token")}
    waiter = broker.caller.make("claim", wait_ms=60_000)
    broker.caller.send(waiter)
    broker.serve()
    broker.submit("scheduled", not_before_ms=broker.clock.now_ms() + SCHEDULED_MS)
    redis_client.flushall()
    broker.caller.send(waiter.model_copy(update={"attempt": 2}))  # nobody knows of it any more: its client asks again
    broker.serve()
    assert not broker.caller.has_reply(waiter)
    assert broker.ask(broker.caller.make("renew", **lease))[0]["answer"] == "renewed"
    broker.clock.advance(SCHEDULED_MS)
    broker.sweep()
    broker.serve()
    assert broker.caller.replies(waiter)[0]["body"]["job_id"] == "scheduled"
    assert broker.ask(broker.caller.make("complete", **lease))[0]["answer"] == "ok"
    store.close()


def test_what_redis_makes_up_is_not_believed(redis_client: redis.Redis) -> None:
    store = connect("memory://")
    broker = InProcess(store, redis_client)
    broker.submit("a", "b")
    broker.ask(broker.caller.make("cancel", job_id="b"))
    lease = broker.ask(broker.caller.make("claim", job_id="a"))[0]["body"]
    for key in ("broker:ready:default:in:[]", 'broker:ready:default:in:["gpu"]'):
        redis_client.zadd(key, {"a": 0, "b": 1, "never-was": 2, "a:spec": 3, "\x00": 4})
    redis_client.sadd("broker:ready:default:sets", "[]", '["gpu"]')
    redis_client.set(f"broker:answer:{broker.caller.factory}:forged", "a")
    for request in (broker.caller.make("claim"), broker.caller.make("claim", request_id="forged", attempt=2)):
        [reply] = broker.ask(request)
        assert reply["answer"] in ("none_available", "request_expired")
        assert "token" not in reply["body"]
    found = read(store, "a")
    assert (found.epoch, found.lease and found.lease.token) == (1, lease["token"])
    store.close()


def test_a_real_fleet_finishes_every_job_though_redis_is_emptied_again_and_again(fleet: Fleet) -> None:
    settings = {"BROKER_TTL_MS": "2000", "BROKER_SKEW_MS": "100", "BROKER_SWEEP_INTERVAL_MS": "200"}
    for _ in range(2):
        fleet.start_worker({**settings, "BROKER_LOG_LEVEL": "CRITICAL"})
    fleet.start_sweep({**settings, "BROKER_LOG_LEVEL": "CRITICAL"})
    wait_for(lambda: fleet.redis.exists(INDEXED), "the sweep is at work")
    caller = Caller(fleet.redis)
    patient = partial(_insist, caller)
    jobs = [f"job-{number}" for number in range(40)]
    for job in jobs:
        patient(caller.make("submit", job_id=job))
    held: dict[tuple[str, int], str] = {}
    flushes = 0
    for turn in range(400):
        if turn % 12 == 6 and flushes < FLUSHES:
            fleet.redis.flushall()
            flushes += 1
        body = patient(caller.make("claim"))["body"]
        if "token" in body:
            assert held.setdefault((body["job_id"], body["epoch"]), body["token"]) == body["token"]
            lease = {name: body[name] for name in ("job_id", "epoch", "token")}
            assert patient(caller.make("complete", **lease))["answer"] in ("ok", "replayed", "lease_lost")
        elif flushes == FLUSHES and not any(
            patient(caller.make("list_jobs", state=state))["body"]["jobs"] for state in ("ready", "leased")
        ):
            break
    store = connect(fleet.datastore_url)
    assert flushes == FLUSHES
    for job in jobs:
        assert read(store, job).state == "succeeded"
        assert [run.outcome for run in runs_of(store, job)][-1] == "succeeded"
    store.close()


def _insist(caller: Caller, request: Request) -> Reply:
    """Send until there is an answer, as every client does."""
    for attempt in range(1, 40):
        caller.send(request.model_copy(update={"attempt": attempt}))
        with suppress(AssertionError):  # no reply in time
            return caller.replies(request, deadline_ms=500)[0]
    raise AssertionError(f"{request.op} was never answered")
