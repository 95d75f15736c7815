"""One Redis serves the jobs of one datastore."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import TypeAlias

import pytest
import redis

from broker.clock import RedisClock
from broker.entropy import SystemEntropy
from broker.settings import load
from datastore import connect
from tests.caller import Caller
from tests.commands import Commands
from tests.fleet import Fleet
from tests.home import Home
from tests.processes import end, wait_for
from workers.memory_owner import OWNER, MemoryOwner, MemoryTaken
from workers.one_store import MARK_ID, SERVED, OtherStore, require_own_store, serve_own
from workers.runtime import StartError, open_runtime
from workers.taking import WORKERS

pytestmark = pytest.mark.redis

ANOTHER = "0123456789abcdef" * 2
"""The mark of a store that is not there."""
IN_MEMORY = ("--datastore", "memory://")


def second(fleet: Fleet, commands: Commands, tmp_path: Path) -> Home:
    """Whoever comes to the Redis of this fleet with a datastore of their own."""
    env = {"BROKER_REDIS_URL": fleet.redis_url, "BROKER_STATE_DIR": str(tmp_path / "second")}
    return Home(tmp_path, env, run=commands.run)


def assert_refused(home: Home, command: tuple[str, ...]) -> None:
    status, _, err = home.run(*command)
    assert status == 1
    assert "workers of another datastore serve this Redis" in err


def assert_settled_on_one_store(home: Home, *, meanwhile: Callable[[], object] = lambda: None) -> None:
    for number in range(4):
        assert home.json("submit", "-", "--id", f"j{number}", input="{}")[0] == 0
    meanwhile()
    assert len(home.lines("jobs")) == 4, "each request is settled on the one store"


@pytest.mark.parametrize("command", [("worker", *IN_MEMORY), ("worker", "--burst", *IN_MEMORY), ("up", *IN_MEMORY)])
def test_nobody_serves_from_memory_beside_workers_of_a_store(
    fleet: Fleet, commands: Commands, tmp_path: Path, command: tuple[str, ...]
) -> None:
    fleet.start_worker()
    home = second(fleet, commands, tmp_path)
    for _ in range(2):  # the second time as the first left it
        assert_refused(home, command)
    assert_settled_on_one_store(home, meanwhile=fleet.start_worker)


@pytest.mark.parametrize("command", [("worker", "--burst"), ("sweep", "--once"), ("up", "--detach")])
def test_nobody_serves_a_store_beside_a_worker_that_serves_from_memory(
    fleet: Fleet, commands: Commands, tmp_path: Path, command: tuple[str, ...]
) -> None:
    fleet.datastore_url = "memory://"
    fleet.start_worker()
    home = second(fleet, commands, tmp_path)
    assert_refused(home, command)
    assert_settled_on_one_store(home)


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/other.db"])
def test_after_a_memory_that_was_killed_any_store_is_served_at_once(fleet: Fleet, tmp_path: Path, url: str) -> None:
    fleet.datastore_url = "memory://"
    worker = fleet.start_worker()
    worker.kill()
    worker.wait()
    assert fleet.redis.zcard(WORKERS) == 1, "it was heard of just now"
    fleet.datastore_url = url.format(tmp_path)
    fleet.start_worker()


def test_after_a_memory_whose_worker_has_ended_any_store_is_served(fleet: Fleet) -> None:
    sqlite, fleet.datastore_url = fleet.datastore_url, "memory://"
    for url in (sqlite, "memory://"):
        worker = fleet.start_worker()
        worker.terminate()
        assert worker.wait(timeout=20) == 0
        fleet.datastore_url = url
    fleet.start_worker()


@pytest.mark.parametrize("first", ["memory", "sqlite"])
def test_a_worker_ends_where_another_store_has_come_while_redis_knew_nothing(fleet: Fleet, first: str) -> None:
    if first == "memory":
        fleet.datastore_url = "memory://"
    worker = fleet.start_worker()
    fleet.redis.flushall()
    serve_own(fleet.redis, ANOTHER, session="theirs")  # before its next beat
    out, _ = worker.communicate(timeout=30)
    assert worker.returncode == 1
    assert "another datastore is served on this Redis by now" in out
    assert fleet.redis.get(SERVED) == ANOTHER.encode()


GARBAGE = (
    b"x",
    b"\xff\x00",
    b"",
    b"f" * 31,
    b"f" * 33,
    b"g" * 32,
    b"host 1 2 " + b"f" * 15,
    b"host 1 2 " * 99 + b"f" * 16,
)


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_workers_live_on_past_marks_that_are_none(fleet: Fleet, store: str) -> None:
    if store == "memory":
        fleet.datastore_url = "memory://"
    worker = fleet.start_worker({"BROKER_TAKEOVER_MS": "2000"})  # so that it beats often
    caller = Caller(fleet.redis)
    mark = fleet.redis.get(SERVED)
    for number, garbage in enumerate(GARBAGE[:3]):
        fleet.redis.set(SERVED, garbage)
        wait_for(lambda: fleet.redis.get(SERVED) == mark or worker.poll() is not None, "it says again what it serves")
        assert worker.poll() is None
        assert caller.ask("submit", job_id=f"job-{number}")["answer"] == "ok"


def test_nobody_is_kept_from_serving_by_marks_that_are_none(redis_client: redis.Redis) -> None:
    for number, garbage in enumerate(GARBAGE):
        redis_client.set(SERVED, garbage)
        _is_heard_of(redis_client, "no store")
        own = f"{number:032x}"
        serve_own(redis_client, own)
        assert redis_client.get(SERVED) == own.encode()


def test_no_memory_is_kept_from_serving_by_an_owner_that_is_none(redis_client: redis.Redis) -> None:
    for garbage in (*GARBAGE, None):
        redis_client.delete(OWNER)
        if garbage is None:
            redis_client.rpush(OWNER, "x")
        else:
            redis_client.set(OWNER, garbage)
        owner = MemoryOwner.take(redis_client)
        assert redis_client.get(OWNER) == owner.mark.encode()
        with pytest.raises(MemoryTaken):
            MemoryOwner.take(redis_client)


@pytest.mark.parametrize(
    "mark", [ANOTHER, "host 1 2 0123456789abcdef", "host 1 Sat Nov 28 10:00:00 2026 0123456789abcdef"]
)
def test_marks_of_stores_and_memories_keep_others_from_serving(redis_client: redis.Redis, mark: str) -> None:
    _begins(redis_client, mark)
    with pytest.raises(OtherStore):
        serve_own(redis_client, "f" * 32)


Step: TypeAlias = Callable[[redis.Redis, str], object]


def _opens(connection: redis.Redis, mark: str) -> None:
    serve_own(connection, mark)


def _begins(connection: redis.Redis, mark: str) -> None:
    serve_own(connection, mark, session=f"worker of {mark}")


def _is_heard_of(connection: redis.Redis, mark: str) -> None:
    connection.zadd(WORKERS, {f"worker of {mark}": RedisClock(connection).now_ms()})


def most_at_once(connection: redis.Redis, steps: Sequence[Step]) -> int:
    """Stores that are served, of two whose workers go through these steps, at the worst of all orders."""
    worst = 0
    for turns in combinations(range(2 * len(steps)), len(steps)):
        connection.flushall()
        one, two = "1" * 32, "2" * 32
        left = {one: list(steps), two: list(steps)}
        for turn in range(2 * len(steps)):
            mark = one if turn in turns else two
            try:
                if mark in left:
                    left[mark].pop(0)(connection, mark)
            except OtherStore:
                del left[mark]
        assert left, "one of them is served"
        worst = max(worst, len(left))
    return worst


def test_of_two_stores_that_come_at_once_one_is_served(redis_client: redis.Redis) -> None:
    assert most_at_once(redis_client, [_opens, _begins]) == 1


def test_workers_that_are_heard_of_after_they_looked_would_serve_two(redis_client: redis.Redis) -> None:
    """The broken twin."""
    assert most_at_once(redis_client, [_opens, _opens, _is_heard_of]) == 2


@pytest.mark.parametrize("command", [("worker",), ("sweep", "--once"), ("up", "--detach")])
def test_nobody_serves_a_second_store_beside_workers_of_the_first(
    fleet: Fleet, commands: Commands, tmp_path: Path, command: tuple[str, ...]
) -> None:
    fleet.start_worker()
    home = second(fleet, commands, tmp_path)
    assert_refused(home, command)
    assert_settled_on_one_store(home)


def test_once_its_workers_have_ended_another_store_is_served(fleet: Fleet, tmp_path: Path) -> None:
    end(fleet.start_worker())
    with redis.Redis.from_url(fleet.redis_url) as connection:
        connection.delete(WORKERS)  # as 6 s after a kill
    other = Fleet(fleet.redis_url, tmp_path, datastore_url=f"sqlite:///{tmp_path}/other.db")
    try:
        other.start_worker()
        with pytest.raises(StartError, match="another datastore"):
            open_runtime(load(redis_url=fleet.redis_url, datastore_url=fleet.datastore_url))
    finally:
        other.close()


def test_a_store_is_known_again_and_a_worker_of_long_ago_is_none(redis_client: redis.Redis, tmp_path: Path) -> None:
    entropy = SystemEntropy()
    with (
        closing(connect(f"sqlite:///{tmp_path}/one.db")) as one,
        closing(connect(f"sqlite:///{tmp_path}/one.db")) as again,
        closing(connect(f"sqlite:///{tmp_path}/two.db")) as two,
    ):
        require_own_store(redis_client, one, entropy)
        seconds, _ = redis_client.time()
        redis_client.zadd(WORKERS, {"w": seconds * 1_000})
        require_own_store(redis_client, again, entropy)
        with pytest.raises(OtherStore):
            require_own_store(redis_client, two, entropy)
        redis_client.zadd(WORKERS, {"w": (seconds - 10) * 1_000})
        require_own_store(redis_client, two, entropy)
        found = two.read(MARK_ID, MARK_ID)
        assert redis_client.get(SERVED) == str(found.document.body["mark"]).encode()  # type: ignore[union-attr]  # it is there


def test_a_store_that_is_refused_is_closed_again(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start_worker()
    other = tmp_path / "other.db"
    with pytest.raises(StartError, match="another datastore") as refused:
        open_runtime(load(redis_url=fleet.redis_url, datastore_url=f"sqlite:///{other}"))
    assert refused.tb, "which keeps alive what was not closed"
    assert other.exists()
    assert not other.with_name("other.db-wal").exists()


@pytest.mark.parametrize("store", ["memory://", "sqlite:///{}/jobs.db"])
def test_a_process_that_could_not_start_may_start_with_better_settings(
    redis_url: str, tmp_path: Path, store: str
) -> None:
    good = load(redis_url=redis_url, datastore_url=store.format(tmp_path), state_dir=tmp_path)
    for _ in range(2):
        with pytest.raises(StartError, match="no signing secret") as refused:
            open_runtime(good.model_copy(update={"signing": "required"}))
        assert refused.tb, "which keeps alive what was not closed"
        assert [file.name for file in tmp_path.glob("*-wal")] == []
    open_runtime(good).close()


def test_after_redis_has_lost_everything_another_store_is_refused_again(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start_worker()
    fleet.redis.flushall()
    wait_for(lambda: fleet.redis.exists(SERVED), "the worker says again which store it serves")
    with pytest.raises(StartError, match="another datastore"):
        open_runtime(load(redis_url=fleet.redis_url, datastore_url=f"sqlite:///{tmp_path}/other.db"))


def test_marks_of_another_type_keep_nobody_from_serving(redis_client: redis.Redis, tmp_path: Path) -> None:
    entropy = SystemEntropy()
    with closing(connect(f"sqlite:///{tmp_path}/one.db")) as one, closing(connect(f"sqlite:///{tmp_path}/2.db")) as two:
        redis_client.rpush(SERVED, "x")
        require_own_store(redis_client, one, entropy)
        redis_client.set(WORKERS, "x")
        require_own_store(redis_client, two, entropy)
        assert redis_client.type(SERVED) == b"string"


@pytest.fixture
def full_redis(redis_client: redis.Redis) -> Iterator[redis.Redis]:
    """A Redis that refuses whatever needs memory, once `maxmemory` is set; it is unset behind the test."""
    yield redis_client
    redis_client.config_set("maxmemory", 0)


def test_a_redis_that_is_full_keeps_nobody_from_starting_again(full_redis: redis.Redis, tmp_path: Path) -> None:
    with closing(connect(f"sqlite:///{tmp_path}/one.db")) as one:
        mark = require_own_store(full_redis, one, SystemEntropy())
        full_redis.config_set("maxmemory", 1)
        assert require_own_store(full_redis, one, SystemEntropy()) == mark


@pytest.mark.parametrize("command", [("worker",), ("sweep", "--once"), ("up", "--detach")])
def test_who_cannot_start_as_redis_is_full_is_told_so(
    full_redis: redis.Redis, redis_url: str, commands: Commands, tmp_path: Path, command: tuple[str, ...]
) -> None:
    full_redis.config_set("maxmemory", 1)
    home = Home(tmp_path, {"BROKER_REDIS_URL": redis_url, "BROKER_STATE_DIR": str(tmp_path / "s")}, run=commands.run)
    status, _, err = home.run(*command)
    assert status == 1
    assert "Redis takes no writes: OOM" in err
    assert "raise its maxmemory" in err
