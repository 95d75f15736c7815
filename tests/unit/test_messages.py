"""Requests at the door: what each operation takes, its limits to the byte, and which queue serves it."""

import json
import re
import subprocess
import sys
import time
from typing import Any, get_args

import pytest

from broker.messages import (
    ENVELOPE_BYTES_MAX,
    Claim,
    Request,
)
from broker.parsing import DETAIL_CHARS_MAX, Malformed, parse, without_tokens
from broker.queues import QUEUES
from broker.settle import HANDLERS
from broker.wire_types import NESTING_MAX, PAYLOAD_BYTES_MAX, PROGRESS_BYTES_MAX, RESULT_BYTES_MAX, TERMS_BYTES_MAX

TOKEN = "0123456789abcdef" * 2
ESCAPED = "".join(f"\\u{ord(digit):04x}" for digit in TOKEN)
LEASE = {"job_id": "job", "epoch": 1, "token": TOKEN}
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "claim": ("claims", {}),
    "renew": ("leases", LEASE),
    "complete": ("leases", LEASE),
    "fail": ("leases", LEASE),
    "release": ("leases", LEASE),
    "progress": ("leases", {**LEASE, "progress": 0.5}),
    "submit": ("jobs", {}),
    "cancel": ("jobs", {"job_id": "job"}),
    "redrive": ("jobs", {"job_id": "job"}),
    "revoke": ("jobs", {"job_id": "job"}),
    "hold": ("jobs", {"job_id": "job"}),
    "lift": ("jobs", {"job_id": "job"}),
    "set_limit": ("jobs", {"limit": "queue:builds", "capacity": 2, "rate": {"count": 1, "per_ms": 1_000}}),
    "remove_limit": ("jobs", {"limit": "key:gpu"}),
    "list_limits": ("jobs", {}),
    "pause_queue": ("jobs", {"queue": "builds"}),
    "resume_queue": ("jobs", {"queue": "builds"}),
    "list_queues": ("jobs", {}),
    "get_job": ("jobs", {"job_id": "job"}),
    "list_jobs": ("jobs", {}),
    "list_runs": ("jobs", {"job_id": "job"}),
    "put_schedule": ("jobs", {"name": "nightly", "cron": "0 2 * * *", "job": {}}),
    "change_schedule": ("jobs", {"name": "nightly", "to": "paused"}),
    "list_schedules": ("jobs", {}),
    "hand_over": ("leases", {**LEASE, "to": "f2"}),
    "register_factory": ("jobs", {"capacity": 4, "version": "1", "offers": ["gpu", "os=linux"]}),
    "drain_factory": ("jobs", {"factory": "f", "reason": "disk", "for_ms": 1}),
    "resume_factory": ("jobs", {"factory": "f"}),
    "remove_factory": ("jobs", {"factory": "f", "force": True}),
    "get_factory": ("jobs", {"factory": "f"}),
    "list_factories": ("jobs", {}),
}


def text(op: str, body: dict[str, Any], **envelope: Any) -> str:
    address = {"request_id": "r-1", "factory_id": "f", "incarnation": "i", "instance": "x"}
    return json.dumps({"op": op, "body": body, **address, **envelope}, ensure_ascii=False)


def test_every_operation_is_tried_here_and_has_a_handler() -> None:
    ops = {kind.model_fields["op"].default for kind in get_args(Request)}
    assert ops >= set(BODIES)
    assert set(HANDLERS) == set(get_args(Request))
    assert {kind.queue_name for kind in get_args(Request)} == set(QUEUES)


@pytest.mark.parametrize("op", BODIES)
def test_an_operation_is_read_and_goes_to_its_queue(op: str) -> None:
    queue, body = BODIES[op]
    request = parse(text(op, body))
    assert (request.op, request.queue_name) == (op, queue)
    assert parse(request.model_dump_json()) == request
    assert parse(request.model_dump_json(exclude_none=True)) == request


@pytest.mark.parametrize("op", BODIES)
def test_a_misspelt_option_is_refused_not_ignored(op: str) -> None:
    for wrong in (text(op, {**BODIES[op][1], "priorty": 1}), text(op, BODIES[op][1], dedline_ms=1)):
        with pytest.raises(Malformed, match="not permitted"):
            parse(wrong)


@pytest.mark.parametrize("op", BODIES)
def test_an_operation_is_told_from_what_its_body_says_of_one(op: str) -> None:
    address = '"request_id": "r-1", "factory_id": "f", "incarnation": "i", "instance": "x"'
    for other in ("claim", "submit", "renew", "nonsense"):
        said = f'{{"op": "{other}"}}'
        first = f'{{"body": {{"payload": {said}}}, "op": "submit", {address}}}'
        assert parse(first) == parse(first.encode()) == parse(text("submit", {"payload": {"op": other}}))
        with pytest.raises(Malformed, match="no `op`, which says what is asked for"):
            parse(f'{{"body": {{"payload": {said}}}, {address}}}')
    plain = text(op, BODIES[op][1])
    assert parse(plain.replace('"op": ', '"op" :\t', 1)) == parse(plain)
    assert parse(plain.replace(f'"{op}"', f'"\\u{ord(op[0]):04x}{op[1:]}"', 1)) == parse(plain)
    with pytest.raises(Malformed, match="tag"):
        parse(plain.replace(f'"op": "{op}"', f'"op": "{op}x"', 1))


def test_a_request_builds_the_type_of_its_own_kind_and_no_other() -> None:
    code = (
        "from typing import get_args; from broker.messages import Request; from broker.parsing import parse;"
        f"parse({text('claim', {'job_id': 'job'})!r}); parse({text('renew', LEASE)!r});"
        "print(sorted(kind.__name__ for kind in get_args(Request) if kind.__pydantic_complete__))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "['Claim', 'Renew']\n"


@pytest.mark.parametrize("op", ["renew", "complete", "fail", "release", "hand_over", "progress"])
@pytest.mark.parametrize("lacking", ["job_id", "epoch", "token"])
def test_a_fenced_operation_without_its_fence_is_refused(op: str, lacking: str) -> None:
    body = {name: value for name, value in BODIES[op][1].items() if name != lacking}
    with pytest.raises(Malformed, match=f"{lacking}: Field required"):
        parse(text(op, body))


@pytest.mark.parametrize(
    ("op", "field", "bytes_max"),
    [
        ("submit", "payload", PAYLOAD_BYTES_MAX),
        ("complete", "result", RESULT_BYTES_MAX),
        ("fail", "result", RESULT_BYTES_MAX),
        ("progress", "progress", PROGRESS_BYTES_MAX),
    ],
)
@pytest.mark.parametrize("letter", ["x", "ä", "\U0001f600"])
def test_json_is_measured_in_bytes_of_utf8(op: str, field: str, bytes_max: int, letter: str) -> None:
    width = len(letter.encode())
    fitting = letter * ((bytes_max - 2) // width)
    assert parse(text(op, {**BODIES[op][1], field: fitting}).encode()).op == op
    with pytest.raises(Malformed, match=f"at most {bytes_max}"):
        parse(text(op, {**BODIES[op][1], field: fitting + letter}).encode())


@pytest.mark.parametrize("shape", ["list", "object"])
def test_nesting_is_bounded(shape: str) -> None:
    def nested(levels: int) -> Any:
        value: Any = 1
        for _ in range(levels):
            value = [value] if shape == "list" else {"a": value}
        return value

    parse(text("submit", {"payload": nested(NESTING_MAX)}))
    with pytest.raises(Malformed, match="nested more than"):
        parse(text("submit", {"payload": nested(NESTING_MAX + 1)}))


def test_an_envelope_is_bounded_before_it_is_read() -> None:
    with pytest.raises(Malformed, match=f"at most {ENVELOPE_BYTES_MAX}") as refused:
        parse(b" " * (ENVELOPE_BYTES_MAX + 1))
    assert refused.value.sender == {}


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("job_id", ["a", "A.b_c-9", "j" * 128], ["", ".a", "-a", "a b", "a/b", "a:b", "a\n", "ä", "j" * 129, 5, None]),
        ("token", [TOKEN, "forged", "!~" * 64], ["", "a b", "x" * 129, TOKEN + "\n", "\0", "ä", 5, None]),
        ("epoch", [1, 2**53 - 1], [2**53, 0, -1, 1.0, 1.5, 1e300, "one", None, True, [], "1"]),
        ("ttl_ms", [1_000, None], [True, "60000", 60_000.5, [60_000]]),
    ],
)
def test_the_fields_of_a_fence_and_its_ttl_have_a_form(field: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert parse(text("renew", {**LEASE, field: value})).op == "renew"
    for value in bad:
        with pytest.raises(Malformed):
            parse(text("renew", {**LEASE, field: value}))


@pytest.mark.parametrize("value", [0, 1, "no", "false", None])
def test_what_is_no_boolean_is_not_taken_for_one(value: Any) -> None:
    with pytest.raises(Malformed):
        parse(text("fail", {**LEASE, "retryable": value}))


@pytest.mark.parametrize("field", ["request_id", "factory_id", "incarnation", "instance"])
@pytest.mark.parametrize("value", ["", "a b", "a/b", "a:b", "*", "a\n", "a\0", "x" * 200, 7, None, ["a"]])
def test_an_address_that_could_name_another_key_is_refused(field: str, value: Any) -> None:
    with pytest.raises(Malformed):
        parse(text("claim", {}, **{field: value}))


def test_the_sender_of_a_malformed_request_is_known_only_where_its_whole_address_is_well_formed() -> None:
    with pytest.raises(Malformed) as known:
        parse(text("explode", {}))
    assert known.value.sender == {"request_id": "r-1", "factory_id": "f", "instance": "x"}
    with pytest.raises(Malformed) as unknown:
        parse(text("explode", {}, factory_id="f:x"))
    assert unknown.value.sender == {}


def test_what_is_said_about_a_malformed_request_holds_no_token() -> None:
    for body in ({**LEASE, "token": [TOKEN]}, {**LEASE, TOKEN: 1}, {**LEASE, "epoch": TOKEN}):
        with pytest.raises(Malformed) as refused:
            parse(text("renew", body))
        assert TOKEN not in str(refused.value)


def test_a_request_shown_in_a_log_hides_its_token() -> None:
    assert TOKEN not in repr(parse(text("renew", LEASE)))


@pytest.mark.parametrize(
    "leaky",
    [
        TOKEN,
        TOKEN.upper(),
        f'{{"token":"{TOKEN}"}}',
        f'{{\\"token\\": \\"{TOKEN}\\"}}',
        f"x{TOKEN}y",
        '{"token":"short"}',
        f'{{"token":"{ESCAPED}"}}',
        f'{{"token":"{TOKEN[:10]}{ESCAPED[60:]}"}}',
        json.dumps(f'{{"Token":"{ESCAPED}"}}'),
        json.dumps(json.dumps(ESCAPED)),
        f'{{"Token":"{TOKEN}"}}'.encode("utf-16-le").decode(),
    ],
)
def test_tokens_are_taken_out_of_any_text(leaky: str) -> None:
    shown = without_tokens(f"before {leaky} after")
    assert TOKEN[16:] not in shown.replace("\0", "")
    assert ESCAPED[96:] not in re.sub(r"\\+", r"\\", shown)
    assert TOKEN.upper() not in shown
    assert "short" not in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")


@pytest.mark.parametrize(
    "piece",
    [
        "\\",
        '"token',
        '"token\\',
        '"token": ',
        '"token":"\\',
        "a" * 31 + "x",
        ("\\\\u0061" * 31) + "x",
        "a\\" * 31 + "x",
        "a\\\\\\",
    ],
)
def test_tokens_are_taken_out_of_the_longest_text_in_no_time_whatever_it_repeats(piece: str) -> None:
    text = piece * (ENVELOPE_BYTES_MAX // len(piece))
    for hostile in (text, f'"token{text}', f'"token":"{text}', f"{piece}{' ' * 60_000}{text}"):
        began = time.process_time()
        without_tokens(hostile)
        assert time.process_time() - began < 1, "some 10 ms; 10 s where it is looked at once for each of its characters"


def test_a_claim_offers_at_most_64_things_and_waits_at_most_a_minute() -> None:
    request = parse(text("claim", {"offers": [f"k{n}=v" for n in range(64)], "wait_ms": 60_000}))
    assert isinstance(request, Claim)
    for body in ({"offers": ["k"] * 65}, {"wait_ms": 60_001}, {"offers": ["a b"]}, {"offers": ["k>=1"]}):
        with pytest.raises(Malformed):
            parse(text("claim", body))


@pytest.mark.parametrize("need", ["gpu", "engine=codex", "mem_gb>=16", "a<1", "os=a=b"])
def test_a_requirement_has_one_of_five_forms(need: str) -> None:
    assert parse(text("submit", {"requires": [need]})).op == "submit"


@pytest.mark.parametrize("need", ["", "a b=1", "=x", ">=1", "!a", "a!=1", "k\n", "k=\n", "k" * 65])
def test_any_other_requirement_is_refused(need: str) -> None:
    with pytest.raises(Malformed):
        parse(text("submit", {"requires": [need]}))


def test_locks_that_need_more_than_256_slots_are_refused_and_it_is_said_why() -> None:
    deep = [f"{number:02}{'/a' * 126}" for number in range(64)]
    with pytest.raises(Malformed, match="these locks need 8128 slots"):
        parse(text("submit", {"locks": deep}))
    assert parse(text("submit", {"locks": deep[:2]})).op == "submit"
    shared = [f"repo{'/a' * 120}/{number}" for number in range(64)]
    assert parse(text("submit", {"locks": shared})).op == "submit", "folders that they share count once"
    with pytest.raises(Malformed, match="these locks need"):
        parse(text("put_schedule", {"name": "n", "cron": "0 2 * * *", "job": {"locks": deep}}))


def test_what_a_job_needs_or_a_factory_offers_is_at_most_4_kib_together() -> None:
    whole = [f"{number:02}={'x' * 125}" for number in range(32)]
    assert sum(map(len, whole)) == TERMS_BYTES_MAX
    prefers = dict.fromkeys((f"{number:02}{'k' * 62}={'ü' * 128}" for number in range(13)), 1)
    for op, name in (
        ("submit", "requires"),
        ("claim", "offers"),
        ("register_factory", "offers"),
        ("explain", "offers"),
    ):
        body = {"factory": "f"} if op == "explain" else {}
        assert parse(text(op, {**body, name: whole})).op == op
        with pytest.raises(Malformed, match="4097 bytes of terms; at most 4096 are taken"):
            parse(text(op, {**body, name: [*whole, "x"]}))
    with pytest.raises(Malformed, match="bytes of terms"):
        parse(text("submit", {"prefers": prefers}))


def test_what_is_said_about_a_malformed_request_is_short_whatever_it_says_itself() -> None:
    with pytest.raises(Malformed) as refused:
        parse(text("claim", {}, **{"Q" * 100_000: 1}))
    assert len(str(refused.value)) <= DETAIL_CHARS_MAX


@pytest.mark.parametrize(
    ("op", "name", "item"),
    [
        ("renew_many", "leases", {}),
        ("claim", "offers", " "),
        ("submit", "requires", " "),
        ("submit", "locks", ""),
        ("submit", "concurrency", " "),
        ("submit", "depends_on", " "),
    ],
)
def test_a_list_is_read_no_further_than_its_first_fault(op: str, name: str, item: Any) -> None:
    with pytest.raises(Malformed) as told:
        parse(text(op, {name: [item] * 20_000}))
    assert f"{name}.0" in str(told.value)
    assert f"{name}.1" not in str(told.value), "each fault costs: forty thousand leases of nothing took seconds"


@pytest.mark.parametrize(
    ("op", "body", "told"),
    [
        ("claim", {"queue": "a b"}, "claim.body.queue: 1 to 64 letters, digits, "),
        ("claim", {"job_id": "a", "count": 2}, "claim.body: count is for a claim without job_id"),
    ],
)
def test_a_malformed_request_is_told_what_is_wrong_without_the_terms_of_the_library(
    op: str, body: dict[str, Any], told: str
) -> None:
    with pytest.raises(Malformed) as refused:
        parse(text(op, body))
    assert str(refused.value).startswith(told)
