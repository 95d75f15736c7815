"""Whatever is put on the queues, a real worker answers it or buries it, lives on, and changes no job by it."""

import json
import pickle
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast
from uuid import uuid4

import pytest

from broker.lease_bodies import EPOCH_MAX
from broker.messages import ENVELOPE_BYTES_MAX
from broker.queues import SETTLE
from broker.replies import reply_key
from tests.caller import Caller, Reply
from tests.prey import Prey, intake, rq_job
from tests.processes import wait_for
from workers.taking import DEAD, DEAD_MAX


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


# Envelopes whose sender can still be read: a typed reply, and a dead letter.

SENDER_KNOWN: Mapping[str, Callable[[Prey], dict[str, Any]]] = {
    "an unknown operation": lambda prey: prey.envelope(op="complete") | {"op": "drop_everything"},
    "no operation": lambda prey: {k: v for k, v in prey.envelope().items() if k != "op"},
    "an operation that is no text": lambda prey: prey.envelope() | {"op": ["complete"]},
    "an unknown field": lambda prey: prey.envelope(priority=9),
    "an unknown field in the body": lambda prey: prey.envelope(body={**prey.lease, "force": True}),
    "another version": lambda prey: prey.envelope(v=2),
    "no body": lambda prey: prey.envelope(body=None),
    "a body that is a list": lambda prey: prey.envelope(body=[prey.lease]),
    "attempt 0": lambda prey: prey.envelope(attempt=0),
    "a deadline that is a text": lambda prey: prey.envelope(deadline_ms="tomorrow"),
    "a deadline in another era": lambda prey: prey.envelope(deadline_ms=10**300),
    "a negative deadline": lambda prey: prey.envelope(deadline_ms=-1),
    "an epoch that is no number": lambda prey: prey.envelope(body={**prey.lease, "epoch": {}}),
    "epoch 0": lambda prey: prey.envelope(body={**prey.lease, "epoch": 0}),
    "half an epoch": lambda prey: prey.envelope(body={**prey.lease, "epoch": 1.5}),
    "a token that is far too long": lambda prey: prey.envelope(body={**prey.lease, "token": prey.lease["token"] * 5}),
    "a token in a list": lambda prey: prey.envelope(body={**prey.lease, "token": [prey.lease["token"]]}),
    "a token as a field's name": lambda prey: prey.envelope(body={**prey.lease, prey.lease["token"]: 1}),
    "a token as an op": lambda prey: prey.envelope() | {"op": prey.lease["token"]},
    "an incarnation with a colon": lambda prey: prey.envelope(incarnation="a:b"),
    "a job id with a slash": lambda prey: prey.envelope(op="claim", body={"job_id": "../victim"}),
    "a job id with a colon": lambda prey: prey.envelope(op="claim", body={"job_id": "victim:spec"}),
    "a job id with a NUL": lambda prey: prey.envelope(op="claim", body={"job_id": "victim\0"}),
    "a job id with a newline at its end": lambda prey: prey.envelope(op="claim", body={"job_id": "victim\n"}),
    "an empty job id": lambda prey: prey.envelope(op="claim", body={"job_id": ""}),
    "a long job id": lambda prey: prey.envelope(op="claim", body={"job_id": "j" * 129}),
    "a queue with a wildcard": lambda prey: prey.envelope(op="claim", body={"queue": "*"}),
    "a wait of a day": lambda prey: prey.envelope(op="claim", body={"wait_ms": 86_400_000}),
    "65 offers": lambda prey: prey.envelope(op="claim", body={"offers": [str(n) for n in range(65)]}),
    "an oversized payload": lambda prey: prey.envelope(op="submit", body={"payload": "x" * 65_536}),
    "a deep payload": lambda prey: prey.envelope(op="submit", body={"payload": nested(65)}),
    "an oversized result": lambda prey: prey.envelope(body={**prey.lease, "result": "x" * 16_384}),
    "a job that is its own kind of job": lambda prey: prey.envelope(op="submit", body={"kind": "spec"}),
}


@pytest.mark.parametrize("wire", ["intake", "rq"])
@pytest.mark.parametrize("case", SENDER_KNOWN)
def test_a_malformed_request_is_answered_invalid_and_buried(prey: Prey, case: str, wire: str) -> None:
    envelope = SENDER_KNOWN[case](prey)
    text = json.dumps(envelope)

    def send() -> None:
        intake(prey, text) if wire == "intake" else rq_job(prey, f'["{SETTLE}",null,[{text}],{{}}]')

    letter = prey.buried(send)
    assert letter["reason"]
    [reply] = prey.holder.replies_to([envelope["request_id"]])
    assert (reply["answer"], reply["reason"], reply["retry"]) == ("invalid", "malformed", "final")
    assert reply["body"]["detail"] == letter["reason"]
    assert prey.lease["token"] not in json.dumps(reply)


# Texts that JSON readers disagree about: `%s` stands for a valid submission's payload.

ODD_JSON: Mapping[str, str] = {
    "NaN": "NaN",
    "infinity": "Infinity",
    "a number beyond a double": "1e400",
    "a negative number beyond a double": "-1e400",
    "a lone high surrogate": '"\\ud800"',
    "a lone low surrogate": '"\\udc00"',
    "a surrogate pair in the wrong order": '"\\udc00\\ud800"',
    "a lone surrogate as a key": '{"\\ud800": 1}',
    "an integer of 5,000 digits": "9" * 5_000,
    "a control character": '"\x01"',
    "a trailing comma": "[1,]",
    "a comment": "1 /* one */",
    "a bomb of brackets": "[" * 50_000 + "]" * 50_000,
    "a bomb of objects": '{"a":' * 20_000 + "1" + "}" * 20_000,
}


@pytest.mark.parametrize("wire", ["intake", "rq"])
@pytest.mark.parametrize("case", ODD_JSON)
def test_json_that_is_none_creates_no_job(prey: Prey, case: str, wire: str) -> None:
    job_id = f"odd-{uuid4().hex}"
    text = json.dumps(prey.envelope(op="submit", body={"job_id": job_id, "payload": "%s"}))
    text = text.replace('"%s"', ODD_JSON[case])
    letter = prey.buried(
        lambda: intake(prey, text) if wire == "intake" else rq_job(prey, f'["{SETTLE}",null,[{text}],{{}}]')
    )
    assert letter["reason"]
    assert prey.holder.ask("get_job", job_id=job_id)["answer"] == "not_found"


@pytest.mark.parametrize("payload", ["\0", "a\0b", "\U0001f600", "\u2028", {"\0": 1}, 2**63, -(2**70), 1e308, 5e-324])
def test_json_that_only_looks_odd_survives_unchanged(prey: Prey, payload: Any) -> None:
    job_id = f"fine-{uuid4().hex}"
    assert prey.holder.ask("submit", job_id=job_id, payload=payload, wire="intake")["answer"] == "ok"
    assert prey.holder.ask("get_job", job_id=job_id)["body"]["spec"]["payload"] == payload


TWICE: Mapping[str, Callable[[str, str], str]] = {
    "a body": lambda valid, forged: valid[:-1] + f', "body": {forged}}}',
    "a body, the right one last": lambda valid, forged: f'{{"body": {forged}, {valid[1:]}',
    "an operation": lambda valid, _: f'{{"op": "release", {valid[1:]}',
    "an operation, its name in an escape": lambda valid, _: f'{{"\\u006fp": "release", {valid[1:]}',
    "an operation, spaces before the colon": lambda valid, _: f'{{"op" \n:"release", {valid[1:]}',
    "a token": lambda valid, _: valid.replace('"token"', '"token": "x", "token"'),
    "something in a result": lambda valid, _: valid.replace('"token"', '"result": [{"a": {"b": 1, "b": 1}}], "token"'),
}


@pytest.mark.parametrize("case", TWICE)
def test_what_says_a_thing_twice_is_refused_whichever_would_count(prey: Prey, case: str) -> None:
    # The victim's own fence, so that it would be completed if this were read.
    envelope = prey.envelope()
    forged = json.dumps({**prey.lease, "token": "f" * 32})
    letter = prey.buried(lambda: intake(prey, TWICE[case](json.dumps(envelope), forged), "leases"))
    assert letter["reason"] == "a name stands twice in one object"
    assert prey.holder.replies_to([envelope["request_id"]])[0]["answer"] == "invalid"


def test_what_says_a_thing_twice_is_refused_on_rqs_wire_too(prey: Prey) -> None:
    text = TWICE["a token"](json.dumps(prey.envelope()), "")
    for data in (f'["{SETTLE}",null,[{text}],{{}}]', f'[ "{SETTLE}", null, [ {text} ], {{}} ]'):
        assert prey.buried(partial(rq_job, prey, data))["reason"].startswith("a name stands twice in one object")


def test_the_same_name_in_two_objects_is_no_repetition(prey: Prey) -> None:
    job_id = f"fine-{uuid4().hex}"
    payload = [{"op": 1}, {"op": {"op": ":"}}, '"op":"op":']
    assert prey.holder.ask("submit", job_id=job_id, payload=payload, wire="intake")["answer"] == "ok"
    assert prey.holder.ask("get_job", job_id=job_id)["body"]["spec"]["payload"] == payload


def escaped(prey: Prey, text: bytes) -> bytes:
    """The token of the victim in `text`, as JSON may have it too."""
    token = prey.lease["token"]
    return text.replace(token.encode(), "".join(f"\\u{ord(digit):04x}" for digit in token).encode())


# What is no envelope at all: nobody to reply to, so a dead letter only.

NO_ENVELOPE: Mapping[str, Callable[[Prey], bytes]] = {
    "nothing": lambda _: b"",
    "a list": lambda _: b"[]",
    "a text": lambda _: b'"claim"',
    "a number": lambda _: b"1",
    "null": lambda _: b"null",
    "an empty object": lambda _: b"{}",
    "half an envelope": lambda prey: json.dumps(prey.envelope()).encode()[:-20],
    "two envelopes": lambda prey: json.dumps(prey.envelope()).encode() * 2,
    "an envelope in a list": lambda prey: json.dumps([prey.envelope()]).encode(),
    "an envelope as a text": lambda prey: json.dumps(json.dumps(prey.envelope())).encode(),
    "UTF-16": lambda prey: json.dumps(prey.envelope()).encode("utf-16"),
    "a byte order mark": lambda prey: b"\xef\xbb\xbf" + json.dumps(prey.envelope()).encode(),
    "noise": lambda _: bytes(range(256)),
    "a pickle": lambda _: pickle.dumps(("os.system", None, ("true",), {})),
    "no sender": lambda prey: json.dumps({"op": "complete", "body": prey.lease}).encode(),
    "a factory with a colon": lambda prey: json.dumps(prey.envelope(factory_id="a:b")).encode(),
    "a factory with a wildcard": lambda prey: json.dumps(prey.envelope(factory_id="*")).encode(),
    "a channel that is somebody else's key": lambda prey: json.dumps(prey.envelope(instance="x\n:y")).encode(),
    "an id of 100,000 letters": lambda prey: json.dumps(prey.envelope(request_id="r" * 100_000)).encode(),
    "an id rq would not take": lambda prey: json.dumps(prey.envelope(request_id="a/b")).encode(),
    "an oversized envelope, its token at the front": lambda prey: json.dumps(
        {"token": prey.lease["token"], **prey.envelope(), "pad": "x" * 140_000}
    ).encode(),
    "an oversized envelope, its token across the cut": lambda prey: json.dumps(
        {"pad": "y" * 470, "token": prey.lease["token"], "more": "x" * 140_000}
    ).encode(),
    "an oversized envelope in UTF-16": lambda prey: json.dumps(
        {"token": prey.lease["token"], "pad": "x" * 140_000}
    ).encode("utf-16-be"),
    "an oversized envelope, its token in escapes": lambda prey: escaped(
        prey, json.dumps({"pad": "y" * 300, "token": prey.lease["token"], "more": "x" * 140_000}).encode()
    ),
    "a token in escapes": lambda prey: escaped(prey, json.dumps(prey.envelope()).encode())[:-1],
    "a bomb of backslashes": lambda _: b"\\" * ENVELOPE_BYTES_MAX,
    "a token under an escaped name": lambda prey: (
        json.dumps({"op": "x", "token": prey.lease["token"]}).replace('"token"', '"\\u0074oken"').encode()
    ),
}


@pytest.mark.parametrize("case", NO_ENVELOPE)
def test_what_is_no_envelope_is_buried_with_a_reason(prey: Prey, case: str) -> None:
    letter = prey.buried(lambda: intake(prey, NO_ENVELOPE[case](prey)))
    assert letter["reason"]
    assert prey.holder.collect() == 0, "nobody is known to whom a reply could go"


def test_a_bomb_of_backslashes_keeps_nobody_waiting(prey: Prey) -> None:
    for _ in range(5):
        intake(prey, NO_ENVELOPE["a bomb of backslashes"](prey))
    request = prey.holder.make("get_job", job_id="victim")
    prey.holder.send(request)
    assert prey.holder.replies(request, deadline_ms=10_000), "each of them took ten seconds"


def test_what_is_too_long_is_buried_also_by_a_busy_worker(prey: Prey) -> None:
    # A busy worker takes from the queue by itself; an idle one is handed the entry. Both ways must cut and hide.
    poison = NO_ENVELOPE["an oversized envelope, its token at the front"](prey)
    across = NO_ENVELOPE["an oversized envelope, its token across the cut"](prey)
    prey.redis.delete(DEAD)
    with prey.redis.pipeline(transaction=True) as pipe:  # all at once: the worker finds more than it was woken by
        for _ in range(5):
            pipe.rpush("broker:in:claims", poison, across)
            pipe.rpush("rq:queue:claims", "r" * 5_000)
        pipe.execute()
    wait_for(lambda: prey.redis.llen(DEAD) == 15, "fifteen dead letters")
    assert all(len(json.dumps(letter)) < 5_000 for letter in prey.letters())


# Well-formed, and still not to be carried out.


def answer(prey: Prey, **fields: Any) -> Reply:
    envelope = prey.envelope(**fields)
    intake(prey, json.dumps(envelope), "leases")
    return prey.holder.replies_to([envelope["request_id"]])[0]


@pytest.mark.parametrize("op", ["renew", "complete", "fail", "release", "progress"])
@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"token": "f" * 32}, ("lease_lost", "superseded")),
        ({"token": "forged"}, ("lease_lost", "superseded")),
        ({"epoch": EPOCH_MAX}, ("invalid", "epoch_from_the_future")),
        ({"epoch": 2}, ("invalid", "epoch_from_the_future")),
        ({"job_id": "another"}, ("not_found", None)),
    ],
)
def test_a_forged_fence_is_refused(
    prey: Prey, op: str, wrong: dict[str, Any], expected: tuple[str, str | None]
) -> None:
    progress = {"progress": 1} if op == "progress" else {}
    reply = answer(prey, body={**prey.lease, **wrong, **progress}) if op == "complete" else None
    if reply is None:
        reply = prey.holder.ask(op, **{**prey.lease, **wrong, **progress})
    assert (reply["answer"], reply["reason"]) == expected
    assert "token" not in reply["body"]


@pytest.mark.parametrize("op", ["renew", "complete", "fail", "release", "progress"])
def test_a_number_that_no_epoch_reaches_is_none_and_is_told_nowhere(prey: Prey, op: str) -> None:
    """It was called an epoch from the future, and stood in the stream of events with all its digits."""
    progress = {"progress": 1} if op == "progress" else {}
    for epoch in (EPOCH_MAX + 1, 10**4_000):
        envelope = prey.envelope() | {"op": op, "body": {**prey.lease, "epoch": epoch, **progress}}
        intake(prey, json.dumps(envelope), "leases")
        [reply] = prey.holder.replies_to([envelope["request_id"]])
        assert (reply["answer"], reply["reason"]) == ("invalid", "malformed")
    assert all(len(fields[b"e"]) < 1_000 for _, fields in cast(Any, prey.redis.xrange("broker:events")))


def test_the_right_token_in_another_factorys_hands_is_refused(prey: Prey) -> None:
    reply = Caller(prey.redis, "thief").ask("complete", **prey.lease)
    assert (reply["answer"], reply["reason"]) == ("lease_lost", "superseded")


def test_a_stale_token_is_refused(prey: Prey) -> None:
    job_id = uuid4().hex
    prey.holder.submit(job_id)
    old = prey.holder.hold(job_id)
    assert prey.holder.ask("release", **old)["answer"] == "ok"
    new = prey.holder.hold(job_id)
    for op in ("renew", "complete", "fail", "release"):
        assert prey.holder.ask(op, **old)["reason"] == "superseded"
        mixed = {**old, "epoch": new["epoch"]}
        assert prey.holder.ask(op, **mixed)["reason"] == "superseded"
    assert prey.holder.ask("complete", **new)["answer"] == "ok"


def test_a_request_past_its_deadline_is_dropped_unread(prey: Prey) -> None:
    reply = answer(prey, deadline_ms=1)
    assert reply["answer"] == "request_expired"


def test_the_dead_letter_list_has_a_bound(prey: Prey) -> None:
    with prey.redis.pipeline(transaction=False) as pipe:
        for number in range(DEAD_MAX + 200):
            pipe.rpush("broker:in:claims", f"poison {number}")
        pipe.execute()
    wait_for(lambda: not prey.redis.llen("broker:in:claims"), "all poison is taken")
    prey.look()
    assert prey.redis.llen(DEAD) == DEAD_MAX


def test_a_reply_goes_only_to_a_channel_of_the_brokers_own_naming(prey: Prey) -> None:
    for envelope in (prey.envelope(factory_id="..", instance="x"), prey.envelope(instance="x" * 129)):
        intake(prey, json.dumps(envelope))
    prey.look()
    assert prey.redis.keys("broker:reply:*") in ([], [reply_key("holder", "x").encode()])
