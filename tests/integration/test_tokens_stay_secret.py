"""A token is in its holder's reply and in the datastore; in nothing else that a fleet writes, lists or starts."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
import redis

from broker import cli
from broker.client import Client
from datastore import connect
from tests.caller import Caller
from tests.fleet import Fleet
from tests.processes import wait_for
from workers.cli.app import build_app

pytestmark = pytest.mark.redis


def grants(client: Client, caller: Caller, redis_client: redis.Redis) -> Iterator[str]:
    """Leases in every way there is, and every way to use their tokens wrongly. Yields the tokens."""
    for number in range(8):
        assert client.submit({"n": number}, job_id=f"job-{number}").good
    for each in client.claim(count=3).grants:
        yield str(each.body["token"])
    named = client.claim("job-3").body
    fence = {name: named[name] for name in ("job_id", "epoch", "token")}
    yield fence["token"]
    client.renew(named["job_id"], epoch=named["epoch"], token=named["token"])
    client.progress(named["job_id"], epoch=named["epoch"], token=named["token"], progress={"at": 1})
    client.release(named["job_id"], epoch=named["epoch"], token=named["token"], reason="again")
    client.complete(named["job_id"], epoch=named["epoch"], token=named["token"])  # stale by now
    caller.ask("complete", **{**fence, "epoch": 99})  # an alarm
    caller.ask("renew", **fence)  # another factory's
    for poison in (
        {"op": "complete", "body": {**fence, "epoch": "x"}},
        {fence["token"]: fence},
        [fence["token"]],
        fence,
    ):
        envelope = poison if isinstance(poison, list) else {**caller.make("claim").model_dump(), **poison}
        redis_client.rpush("broker:in:leases", json.dumps(envelope))
    redis_client.rpush("broker:in:leases", json.dumps(fence)[:-9], "s1 " + json.dumps(fence))
    data = json.dumps(["os.system", None, [f"echo {fence['token']}"], {}])
    redis_client.hset("rq:job:leaky", mapping={"data": data, "status": "queued"})
    redis_client.rpush("rq:queue:leases", "leaky")
    wait_for(lambda: redis_client.llen("broker:dead") >= 7, "the poison is buried")
    waiting = caller.make("claim", queue="quiet", wait_ms=20_000)
    caller.send(waiting)
    wait_for(lambda: redis_client.hlen("broker:waiting"), "a claim waits")
    client.submit(job_id="quiet", queue="quiet")
    yield str(caller.replies(waiting)[0]["body"]["token"])


def written_to_redis(client: redis.Redis) -> Mapping[str, bytes]:
    """Every key but the reply channels, as the server would dump it, and as text."""
    found: dict[str, bytes] = {}
    for key in cast(list[bytes], client.keys("*")):
        name = key.decode()
        if name.startswith("broker:reply:"):
            continue
        kind = cast(bytes, client.type(key)).decode()
        if kind == "none":
            continue  # gone meanwhile, as a lock or what was in hand
        read: Mapping[str, Any] = {
            "string": client.get, "hash": client.hgetall, "set": client.smembers, "stream": client.xrange,
            "list": lambda key: client.lrange(key, 0, -1), "zset": lambda key: client.zrange(key, 0, -1),
        }  # fmt: skip
        found[name] = repr(read[kind](key)).encode()
    return found


def listings(fleet: Fleet, folder: Path, capsys: pytest.CaptureFixture[str]) -> Mapping[str, bytes]:
    """What the commands print that look at jobs, for people and for programs."""
    commands = [
        ["jobs", "--limit", "0"], ["job", "job-3"], ["runs", "job-3"], ["leases"], ["explain", "job-3"],
        ["explain", "--factory", "holder"], ["events"], ["refused"], ["dead"], ["factory", "list"], ["status"],
    ]  # fmt: skip
    found: dict[str, bytes] = {}
    for command in commands:
        for shape in ([], ["--json"]):
            where = ["--redis", fleet.redis_url, "--state-dir", str(folder / "state")]
            cli.run(build_app(), [*command, *shape, *where])
            printed = capsys.readouterr()
            found[" ".join(command + shape)] = (printed.out + printed.err).encode()
    return found


def processes() -> Mapping[str, bytes]:
    """The command line of every process that can be seen, and the environment of those of ours."""
    found: dict[str, bytes] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                found[f"{folder}/{name}"] = (folder / name).read_bytes()
            except OSError:  # ended meanwhile, or somebody else's
                continue
    return found


def test_a_token_is_nowhere_but_with_its_holder(
    fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = fleet.start_worker({"BROKER_LOG_LEVEL": "DEBUG", "BROKER_TTL_MS": "20000"})
    sweep = fleet.start_sweep({"BROKER_LOG_LEVEL": "DEBUG", "BROKER_SWEEP_INTERVAL_MS": "250"})
    history = tmp_path / "history"
    with Client.connect(fleet.redis_url, factory_id="holder", wire="intake", history=history) as client:
        tokens = list(grants(client, Caller(fleet.redis, "thief"), fleet.redis))
        command = ["exec", "--factory", "runner", "--", "sh", "-c", f"touch '{tmp_path}/runs'; sleep 60"]
        runner = fleet.start([sys.executable, "-m", "workers.cli", *command])
        wait_for(lambda: (tmp_path / "runs").exists(), "a command runs under a lease", deadline_ms=30_000)
        held = (tmp_path / "jobs.db").read_bytes() + (tmp_path / "jobs.db-wal").read_bytes()
        tokens.append(_token_of(fleet, "runner"))
        places: dict[str, bytes] = {**processes(), **written_to_redis(fleet.redis), **listings(fleet, tmp_path, capsys)}
    places["history"] = b"".join(path.read_bytes() for path in [history, *history.rglob("*")] if path.is_file())
    for name, process in {"exec": runner, "worker": worker, "sweep": sweep}.items():
        process.terminate()
        output, _ = process.communicate(timeout=30)
        places[f"log of {name}"] = output.encode()

    assert len(set(tokens)) == 6
    assert all(token.encode() in held for token in tokens), "the datastore has them all: they were looked for rightly"
    looked_at = ("log of worker", "history", "broker:dead", "broker:events", "jobs --limit 0 --json", "runs job-3")
    assert [name for name in looked_at if not places[name]] == []
    assert b"runner" in places["leases"]
    leaks = [
        (name, token) for name, text in places.items() for token in tokens for part in _parts(token) if part in text
    ]
    assert leaks == []


def _parts(token: str) -> tuple[bytes, bytes]:
    """Half a token is too much as well."""
    return token[:16].encode(), token[16:].encode()


def _token_of(fleet: Fleet, factory: str) -> str:
    """The token of a lease as it is stored."""
    store = connect(fleet.datastore_url)
    [job] = store.find({"kind": "job", "lease.factory_id": factory}).documents
    store.close()
    lease: Any = job.body["lease"]
    return str(lease["token"])


def test_the_grep_finds_a_token_in_an_argument(fleet: Fleet) -> None:
    token = uuid4().hex
    loose = fleet.start([sys.executable, "-c", "import time; time.sleep(60)", "--token", token])
    wait_for(lambda: any(token.encode() in text for text in processes().values()), "the twin is seen")
    loose.kill()
