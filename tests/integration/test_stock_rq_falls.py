"""The twin of `test_hostile_rq_jobs`: a stock rq worker falls to what ours buries, so burying it means something."""

import json
import subprocess
import threading
import zlib
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from uuid import uuid4

import pytest
from rq.command import send_shutdown_command
from rq.job import Job as RqJob
from rq.job import JobStatus
from rq.serializers import JSONSerializer
from rq.utils import as_text

from broker.messages import ENVELOPE_BYTES_MAX
from broker.queues import SETTLE, RedisValue, rq_job_hash
from tests.caller import Caller
from tests.fleet import Fleet
from tests.integration.test_stock_rq_worker import rq_worker
from tests.processes import end, wait_for
from workers.finishing import read_letters

pytestmark = pytest.mark.redis


class Listener:
    """Somebody inside the network, whom a worker is to call on behalf of whoever can't."""

    def __init__(self) -> None:
        self.called = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # the library's name
                outer.called.set()
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


def plant(fleet: Fleet, data: str | bytes, **fields: str) -> str:
    """An rq job as anybody can make it who may write rq's keys; its id."""
    rq_id = uuid4().hex
    written: dict[RedisValue, RedisValue] = {**rq_job_hash("{}", queue="claims"), "data": data}
    fleet.redis.hset(f"rq:job:{rq_id}", mapping=written | dict(fields.items()))
    fleet.redis.rpush("rq:queue:claims", rq_id)
    return rq_id


def attacks(fleet: Fleet, proof: Path, listener: Listener) -> None:
    """A foreign function, a callback, a webhook."""
    call = json.dumps([SETTLE, None, [{}], {}])
    url = f"http://127.0.0.1:{listener.server.server_port}/"
    plant(fleet, json.dumps(["os.system", None, [f"touch {proof}"], {}]))
    plant(fleet, call, success_callback_name="builtins.print")
    plant(fleet, call, webhooks=json.dumps([{"url": url, "job_status": "finished", "method": "POST"}]))


BOMB = zlib.compress(b"[" + b" " * 64_000_000 + b"]", level=9)


def peak_kb(worker: "subprocess.Popen[str]") -> int:
    """The most memory a worker has had so far."""
    lines = Path(f"/proc/{worker.pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_a_stock_worker_runs_any_function_prints_its_callback_and_calls_a_webhook(
    fleet: Fleet, tmp_path: Path, listener: Listener
) -> None:
    attacks(fleet, tmp_path / "it-ran", listener)
    worker = rq_worker(fleet, "claims", options=("--burst", "-w", "rq.SimpleWorker"))
    output, _ = worker.communicate(timeout=60)
    assert (tmp_path / "it-ran").exists()
    assert "<Job " in output, output
    assert listener.called.is_set()


def test_ours_does_none_of_it(fleet: Fleet, tmp_path: Path, listener: Listener) -> None:
    worker = fleet.start_worker({"BROKER_LOG_LEVEL": "ERROR"})
    attacks(fleet, tmp_path / "it-ran", listener)
    wait_for(lambda: fleet.redis.llen("broker:dead") == 3, "three dead letters")
    Caller(fleet.redis).submit("alive")
    assert not (tmp_path / "it-ran").exists()
    assert not listener.called.is_set()
    reasons = {letter["reason"].split(":")[0].split(" '")[0] for letter in read_letters(fleet.redis, 3)}
    assert reasons == {"foreign function", "callback", "webhook"}
    assert worker.poll() is None


def test_a_stock_worker_unpacks_a_bomb(fleet: Fleet) -> None:
    worker = rq_worker(fleet, "claims", options=("-w", "rq.SimpleWorker"))
    wait_for(lambda: fleet.redis.smembers("rq:workers"), "the stock worker serves")
    before = peak_kb(worker)
    plant(fleet, BOMB)
    wait_for(lambda: fleet.redis.zcard("rq:failed:claims"), "it has unpacked the bomb, and found nothing in it")
    assert peak_kb(worker) - before > 60_000


TAKEN: Mapping[str, tuple[str, object]] = {
    "NaN": ("NaN", "nan"),
    "a number beyond a double": ("1e400", "inf"),
    "an integer of 401 digits": (f"1{'0' * 400}", str(10**400)),
    "a name twice, of which the last counts": ('{"a": 1, "a": 2}', "{'a': 2}"),
    "a lone surrogate": (r'"\ud800"', r"'\ud800'"),
    "a NUL in an id": (r'{"job_id": "victim\u0000"}', r"{'job_id': 'victim\x00'}"),
    "an id as long as two envelopes": (
        f'{{"job_id": "{"j" * 2 * ENVELOPE_BYTES_MAX}"}}',
        f"{{'job_id': '{'j' * 2 * ENVELOPE_BYTES_MAX}'}}",
    ),
    "900 lists in one another": ("[" * 900 + "]" * 900, "[" * 900 + "]" * 900),
}
"""Text of an argument, and how the function that a stock worker calls with it writes what it got."""

REFUSED: Mapping[str, str] = {
    "a bomb of brackets": "[" * 50_000 + "]" * 50_000,
    "a bomb of objects": '{"a":' * 20_000 + "1" + "}" * 20_000,
    "an integer of 5,000 digits": "9" * 5_000,
    "a NUL as it is": '"a\0b"',
}
"""What Python's own JSON reader refuses."""


def call_with(fleet: Fleet, argument: str) -> RqJob:
    """What becomes of a call that a stock worker finds on its queue."""
    rq_id = plant(fleet, f'["builtins.repr", null, [{argument}], {{}}]', result_ttl="60")
    worker = rq_worker(fleet, "claims", options=("--burst", "-w", "rq.SimpleWorker"))
    output, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, output
    return RqJob.fetch(rq_id, connection=fleet.redis, serializer=JSONSerializer)


@pytest.mark.parametrize("case", TAKEN)
def test_a_stock_worker_hands_odd_json_to_the_function_as_it_is(fleet: Fleet, case: str) -> None:
    argument, got = TAKEN[case]
    assert call_with(fleet, argument).return_value() == got


@pytest.mark.parametrize("case", REFUSED)
def test_a_stock_worker_outlives_what_no_json_reader_takes(fleet: Fleet, case: str) -> None:
    # So of these there is no twin (SECURITY.md): what is ours there is a dead letter that names a reason.
    job = call_with(fleet, REFUSED[case])
    assert job.get_status() is JobStatus.FAILED
    result = job.latest_result()
    assert result is not None
    assert "DeserializationError" in str(result.exc_string)


def test_an_unknown_status_ends_a_stock_worker_and_the_next_one_too(fleet: Fleet) -> None:
    plant(fleet, json.dumps([SETTLE, None, [{}], {}]), status="possessed")
    for _ in range(2):
        worker = rq_worker(fleet, "claims", options=("-w", "rq.SimpleWorker"))
        output, _ = worker.communicate(timeout=60)
        assert "possessed" in output


def test_commands_and_flags_of_rq_stop_a_stock_worker_and_not_ours(fleet: Fleet) -> None:
    stock = rq_worker(fleet, "elsewhere", options=("-w", "rq.SimpleWorker", "--name", "stock"))
    ours = fleet.start_worker()
    wait_for(lambda: fleet.redis.pubsub_numsub("rq:pubsub:stock")[0][1], "the stock worker listens")
    names = [as_text(name).removeprefix("rq:worker:") for name in fleet.redis.smembers("rq:workers")]
    assert len(names) == 2
    for name in names:
        send_shutdown_command(fleet.redis, name)
    assert stock.wait(timeout=30) == 0
    fleet.redis.set("rq:suspended", 1)
    Caller(fleet.redis).submit("alive")
    assert ours.poll() is None
    end(stock)
