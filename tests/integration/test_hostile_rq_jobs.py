"""What is put on rq's own wire: a stock worker does anything that stands there, ours nothing but its own."""

import json
import pickle
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer

from broker.queues import SETTLE, rq_job_hash
from tests.prey import Prey, rq_job
from tests.processes import wait_for


@pytest.mark.parametrize(
    "call",
    [
        ("os.system", ["touch {proof}"]),
        ("subprocess.check_call", [["touch", "{proof}"]]),
        ("builtins.open", ["{proof}", "w"]),
        ("pathlib.Path.touch", []),
        ("workers.tasks.load", []),
    ],
    ids=lambda call: str(call[0]),
)
def test_a_foreign_function_does_not_run(prey: Prey, tmp_path: Path, call: tuple[str, list[Any]]) -> None:
    proof = tmp_path / "it-ran"
    data = json.dumps([call[0], None, call[1], {}]).replace("{proof}", str(proof))
    letter = prey.buried(lambda: rq_job(prey, data))
    assert letter["reason"].startswith("foreign function")
    assert not proof.exists()


def test_rq_itself_would_run_it(prey: Prey, tmp_path: Path) -> None:
    # Without this the test above could not fail.
    proof = tmp_path / "it-ran"
    data = json.dumps(["os.system", None, [f"touch {proof}"], {}])
    prey.redis.hset("rq:job:control", mapping={**rq_job_hash("{}", queue="claims"), "data": data})
    RqJob.fetch("control", connection=prey.redis, serializer=JSONSerializer).perform()
    assert proof.exists()
    prey.redis.delete("rq:job:control")


CALLS: Mapping[str, Callable[[str], str]] = {
    "two arguments": lambda text: f'["{SETTLE}",null,[{text},{text}],{{}}]',
    "no argument": lambda _: f'["{SETTLE}",null,[],{{}}]',
    "a keyword": lambda text: f'["{SETTLE}",null,[],{{"envelope":{text}}}]',
    "an argument and a keyword": lambda text: f'["{SETTLE}",null,[{text}],{{"x":1}}]',
    "an instance": lambda text: f'["{SETTLE}","os",[{text}],{{}}]',
    "a call of five parts": lambda text: f'["{SETTLE}",null,[{text}],{{}},1]',
    "a call that is an object": lambda text: f'{{"func":"{SETTLE}","args":[{text}]}}',
    "a second call inside the first": lambda text: f'["{SETTLE}",null,[{text}],{{}}],["os.system",null,["true"],{{}}]',
    "a function that is no text": lambda text: f"[1,null,[{text}],{{}}]",
    "a call nested beyond reading": lambda _: f'["{SETTLE}",null,[' + "[" * 60_000 + "]" * 60_000 + "],{}]",
    "nothing": lambda _: "",
    "not JSON": lambda _: "[oops",
}


@pytest.mark.parametrize("case", CALLS)
def test_a_call_that_is_not_ours_is_buried(prey: Prey, case: str) -> None:
    text = json.dumps(prey.envelope())
    assert prey.buried(lambda: rq_job(prey, CALLS[case](text)))["reason"]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("success_callback_name", "os.abort", "callback"),
        ("failure_callback_name", "os.abort", "callback"),
        ("stopped_callback_name", "os.abort", "callback"),
        ("webhooks", '[{"url": "http://127.0.0.1:1/", "events": ["finished"]}]', "webhook"),
        ("status", "possessed", "unknown status"),
    ],
)
def test_an_rq_job_with_more_than_a_call_is_buried_and_its_call_not_made(
    prey: Prey, field: str, value: str, reason: str
) -> None:
    call = f'["{SETTLE}",null,[{json.dumps(prey.envelope())}],{{}}]'
    letter = prey.buried(lambda: rq_job(prey, call, **{field: value}))
    assert letter["reason"].startswith(reason)


def test_a_zlib_bomb_is_not_unpacked(prey: Prey) -> None:
    bomb = zlib.compress(b"[" + b" " * 64_000_000 + b"]", level=9)
    assert len(bomb) < 131_072, "it must get past the limit on what is carried"
    before = _memory_kb(prey.worker.pid)
    letter = prey.buried(lambda: rq_job(prey, bomb))
    assert letter["reason"].startswith("oversized")
    assert _memory_kb(prey.worker.pid) - before < 8_000


def _memory_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def test_what_rq_itself_compressed_is_served(prey: Prey) -> None:
    envelope = prey.envelope(op="claim")
    rq_job(prey, zlib.compress(f'["{SETTLE}",null,[{json.dumps(envelope)}],{{}}]'.encode()))
    assert prey.holder.replies_to([envelope["request_id"]])[0]["answer"] == "conflict"


@pytest.mark.parametrize(
    "data", [b"x\x9c\x00", b"x\x9cgarbage", zlib.compress(b"{}")[:-3], pickle.dumps([1]), b"\xff\xfe"]
)
def test_data_that_is_neither_json_nor_whole_is_buried(prey: Prey, data: bytes) -> None:
    assert prey.buried(lambda: rq_job(prey, data))["reason"]


@pytest.mark.parametrize(
    "rq_id", [b"gone", b"a" * 256, b"a" * 100_000, b"\xff\xfe\x00", b"x y\r\nz", "ü".encode(), b""]
)
def test_an_rq_id_without_an_rq_job_is_buried(prey: Prey, rq_id: bytes) -> None:
    assert prey.buried(lambda: prey.redis.rpush("rq:queue:claims", rq_id))["reason"]


@pytest.mark.parametrize("kind", ["string", "list", "set"])
def test_an_rq_job_of_another_type_is_buried_and_left_alone_by_scripts(prey: Prey, kind: str) -> None:
    key = f"rq:job:{kind}"
    make: dict[str, Callable[[], object]] = {
        "string": lambda: prey.redis.set(key, "x"),
        "list": lambda: prey.redis.rpush(key, "x"),
        "set": lambda: prey.redis.sadd(key, "x"),
    }
    make[kind]()
    assert prey.buried(lambda: prey.redis.rpush("rq:queue:claims", kind))["reason"].startswith("no such rq job")


@pytest.mark.parametrize("ttl", ["soon", "-1", "99999999999999999999", "1e3", "0x10", "-99"])
def test_a_strange_result_ttl_does_no_harm(prey: Prey, ttl: str) -> None:
    envelope = prey.envelope(op="claim")
    rq_id = rq_job(prey, f'["{SETTLE}",null,[{json.dumps(envelope)}],{{}}]', result_ttl=ttl)
    assert prey.holder.replies_to([envelope["request_id"]])[0]["answer"] == "conflict"
    prey.redis.delete(f"rq:job:{rq_id}", f"rq:results:{rq_id}")


@pytest.mark.parametrize("ttl", ["0", "60"])
def test_an_rq_job_whose_id_is_no_text_is_ended_and_no_other_in_its_place(prey: Prey, ttl: str) -> None:
    other, envelope = "rq:job:\ufffd", prey.envelope(op="claim")
    data = f'["{SETTLE}",null,[{json.dumps(envelope)}],{{}}]'
    prey.redis.set(other, "somebody else's")
    try:
        fields = {**rq_job_hash("{}", queue="claims"), "data": data, "result_ttl": ttl}
        prey.redis.hset(b"rq:job:\xff", mapping=fields)
        prey.redis.rpush("rq:queue:claims", b"\xff")
        assert prey.holder.replies_to([envelope["request_id"]])[0]["answer"] == "conflict"
        wait_for(lambda: prey.redis.ttl(b"rq:job:\xff") == -2 or int(ttl) > 0, "it is gone")
        wait_for(lambda: prey.redis.ttl(b"rq:job:\xff") >= 0 or ttl == "0", "it will go")
        assert prey.redis.get(other) == b"somebody else's"
    finally:
        prey.redis.delete(other, b"rq:job:\xff", b"rq:results:\xff")
