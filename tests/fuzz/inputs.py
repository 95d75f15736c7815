"""Makes envelopes wrong: a seeded stream of inputs from valid ones, by grammar and by bytes."""

import json
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from broker.queues import SETTLE

NOW_MS = 1_700_000_000_000
TOKEN = "5ec7e7" + "0" * 26
"""In every input that carries one. Nothing that is said of an input may show it."""
_FENCE: dict[str, Any] = {"job_id": "job-1", "epoch": 1, "token": TOKEN}
BODIES: dict[str, dict[str, Any]] = {
    "claim": {"queue": "default", "offers": ["os=linux", "mem_gb=16"], "wait_ms": 1_000},
    "renew": _FENCE,
    "renew_many": {"leases": [_FENCE, {**_FENCE, "epoch": 2}]},
    "complete": {**_FENCE, "result": {"a": [1, 2.5, None, "x"]}},
    "fail": {**_FENCE, "error": "it broke", "retryable": True},
    "release": {**_FENCE, "reason": "busy"},
    "progress": {**_FENCE, "progress": {"percent": 10}},
    "hand_over": {**_FENCE, "to": "mac-2"},
    "submit": {"job_id": "job-1", "requires": ["gpu"], "labels": {"a": "b"}, "payload": {"x": [1, {"y": "z"}]}},
    "cancel": {"job_id": "job-1", "reason": "wrong"},
    "redrive": {"job_id": "job-1"},
    "revoke": {"job_id": "job-1", "hold": True},
    "hold": {"job_id": "job-1", "reason": "later"},
    "lift": {"job_id": "job-1"},
    "get_job": {"job_id": "job-1"},
    "list_jobs": {"limit": 10},
    "list_runs": {"job_id": "job-1", "limit": 10},
    "explain": {"job_id": "job-1", "factory": "mac-1", "offers": ["gpu"]},
    "set_limit": {"limit": "key:gpu", "capacity": 2, "rate": {"count": 5, "per_ms": 60_000}},
    "remove_limit": {"limit": "queue:builds"},
    "list_limits": {},
    "pause_queue": {"queue": "default", "reason": "night"},
    "resume_queue": {"queue": "default"},
    "list_queues": {},
    "put_schedule": {"name": "nightly", "cron": "0 3 * * *", "tz": "UTC", "job": {"payload": 1}},
    "change_schedule": {"name": "nightly", "to": "paused"},
    "list_schedules": {"name": "nightly"},
    "register_factory": {"capacity": 2, "version": "1", "offers": ["gpu"]},
    "drain_factory": {"factory": "mac-1", "for_ms": 60_000},
    "resume_factory": {"factory": "mac-1"},
    "remove_factory": {"factory": "mac-1", "force": True},
    "get_factory": {"factory": "mac-1"},
    "list_factories": {"limit": 10},
}
"""What each operation takes."""
_ODD_VALUES: Sequence[str] = (
    "null", "true", "-1", "0", "1.5", "1e308", "1e400", "-1e400", "NaN", "Infinity", "9" * 400, '""', '"\\u0000"',
    '"\\ud800"', '"\\udc00\\ud800"', '"a\\nb"', '"*"', '"a:b"', '"../x"', "[]", "{}", "[[]]", '[{"a":1,"a":2}]',
    '"\x00"', '"\U0001f600"', "1 2", "01", "+1", ".5", "1.", "0x10", "--1", "'x'", "undefined", "// x", "/* x */ 1",
    '"\\x41"',
    "[" * 300 + "]" * 300, '{"a":' * 150 + "1" + "}" * 150, '"' + "x" * 5_000 + '"', f'"{TOKEN}"',
)  # fmt: skip
_WORDS: Sequence[bytes] = (
    b"{", b"}", b"[", b"]", b'"', b":", b",", b"\\", b"\\u", b"null", b"s1 ", b"\x00", b"\xff", b"\xed\xa0\x80",
    b"\xef\xbb\xbf", b'"op":"claim"', b'"token":', b"\xc0\x80", b"-", b"e", b"\r\n", b" ",
)  # fmt: skip

Signer = Callable[[bytes], bytes]


def inputs(seed: int, sign: Signer) -> Iterator[tuple[str, bytes]]:
    """Endless inputs, each with the wire it is for. One seed, one stream."""
    rng = random.Random(seed)
    while True:
        text = _envelope(rng)
        for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
            text = _damaged(rng, text)
        if rng.random() < 0.25:
            text = sign(text)
            if rng.random() < 0.5:
                text = _damaged(rng, text)
        yield ("intake", text) if rng.random() < 0.6 else ("rq", _rq(rng, text))


def _envelope(rng: random.Random) -> bytes:
    op = rng.choice(tuple(BODIES))
    fields: dict[str, Any] = {
        "v": 1, "op": op, "request_id": "r-1", "attempt": 1, "factory_id": "mac-1", "incarnation": "s", "instance": "x",
        "deadline_ms": NOW_MS + 10_000, "body": dict(BODIES[op]),
    }  # fmt: skip
    if rng.random() < 0.3:
        return json.dumps(fields).encode()
    at = rng.choice((fields, fields["body"]))
    name = rng.choice((*at, "extra", "op", "token", "wait_until_ms"))
    how = rng.random()
    if how < 0.15:
        at.pop(name, None)
        return json.dumps(fields, separators=(",", ":")).encode()
    at[name] = "\0odd\0"
    text = json.dumps(fields).replace('"\\u0000odd\\u0000"', rng.choice(_ODD_VALUES))
    if how < 0.25:
        text = text[:-1] + f',"{name}":{rng.choice(_ODD_VALUES)}' + "}"
    return text.encode("utf-8", "surrogatepass")


def _damaged(rng: random.Random, text: bytes) -> bytes:
    """One change to the bytes."""
    at, end = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
    how = rng.randrange(7)
    if how == 0:
        return text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :]
    if how == 1:
        return text[:at] + rng.choice(_WORDS) + text[at:]
    if how == 2:
        return text[:at] + text[min(end, at + 20) :]
    if how == 3:
        return text[:at]
    if how == 4:
        return text[:end] + text[at : at + 50] + text[end:]
    if how == 5:
        return text[:at] + rng.choice(_ODD_VALUES).encode("utf-8", "surrogatepass") + text[at:]
    return text[:at] + rng.choice(_WORDS) * rng.choice((2, 50, 1_000)) + text[at:]


def _rq(rng: random.Random, text: bytes) -> bytes:
    """As the data of an rq job."""
    argument = text if text.startswith(b"{") else json.dumps(text.decode("utf-8", "replace")).encode()
    data = b'["%b",null,[%b],{}]' % (SETTLE.encode(), argument)
    how = rng.random()
    if how < 0.2:
        data = zlib.compress(data)
    if how > 0.7:
        data = _damaged(rng, data)
    return data if how > 0.02 else zlib.compress(b" " * rng.choice((1_000, 1_000_000)))
