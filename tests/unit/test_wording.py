"""What is written down without pydantic is what pydantic would have let pass and written, and nothing else."""

import json
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import pytest

from broker import queues
from broker.client import InvalidRequest
from broker.client.factory_operations import FactoryOperations
from broker.client.plain import Plain
from broker.client.wording import Form, check_request_id, form
from broker.messages import BODY_BYTES_MAX, REQUESTS, ClaimBody, Envelope, PutScheduleBody, Submit
from broker.queues import Message, Wire
from broker.wire_types import Body

KINDS: list[type[Envelope]] = [kind for kind in Envelope.__subclasses__() for kind in kind.__subclasses__()]
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 63, 64, 65, 999, 1_000, 86_400_000, 86_400_001, 2**53, 2**64, 1.0, 1.5, float("nan"),
    "", "a", "a-b.c_D", "-a", "a" * 64, "a" * 65, "a" * 128, "a" * 129, "a b", "a\n", "\na", "a\x1c", "a\"b", "a\\b",
    "é", "default", "a:b", "1", "true", b"a", [], ["a"], {}, {"a": 1}, (), ("a",), ("a b",), object(),
]  # fmt: skip


def bodies(kind: type[Envelope], random: Random) -> dict[str, Any]:
    """Some of the fields of this kind of request, or of none, with odd values."""
    body: Any = kind.model_fields["body"].annotation
    names = [*body.model_fields, "unknown"] if random.random() < 0.1 else list(body.model_fields)
    return {name: random.choice(ODD) for name in names if random.random() < 0.6}


def outcome(write: Callable[[dict[str, Any]], str], given: dict[str, Any]) -> Any:
    try:
        return json.loads(write(given))
    except InvalidRequest as error:
        return str(error)


class Asked(FactoryOperations[Any]):
    """The operations of a client that has nobody to ask."""

    def _ask(self, *asked: Any, **how: Any) -> Any:
        return asked, how

    def _broker_ms(self) -> int | None:
        return None


asked = Asked()


class Nothing(Plain):
    """Leaves everything to pydantic."""

    def told(self, given: Mapping[str, Any]) -> None:  # noqa: ARG002
        return None


def by_pydantic(kind: type[Envelope]) -> Form:
    slow = Form(kind)
    slow._plain = Nothing(kind.model_fields["body"].annotation)  # type: ignore[arg-type]
    return slow


def disagreements(make: Callable[[type[Envelope]], Form]) -> tuple[int, list[Any]]:
    """How many bodies were plain, and those that came out otherwise than with pydantic."""
    random, plain, found = Random(7), 0, list[Any]()
    for kind in KINDS:
        quick, slow = make(kind), by_pydantic(kind)
        for _ in range(400):
            given = bodies(kind, random)
            plain += quick._plain.told(given) is not None
            if (told := outcome(quick.body, given)) != (right := outcome(slow.body, given)):
                found.append((kind.__name__, given, told, right))
    return plain, found


def test_plain_bodies_are_those_that_pydantic_takes_and_are_written_alike() -> None:
    plain, found = disagreements(Form)
    assert not found, found[:3]
    assert plain > 300, "hardly any body was plain: nothing was compared"


class ForgetsLimits(Plain):
    """Takes any text for an id."""

    def __init__(self, body: type[Body]) -> None:
        super().__init__(body)
        self._tests = {name: (lambda value: isinstance(value, str | int)) for name in self._tests}


def test_a_form_that_forgets_limits_is_caught() -> None:
    def make(kind: type[Envelope]) -> Form:
        careless = Form(kind)
        careless._plain = ForgetsLimits(kind.model_fields["body"].annotation)  # type: ignore[arg-type]
        return careless

    assert disagreements(make)[1]


def test_what_is_asked_most_is_plain() -> None:
    fence = {"job_id": "j", "epoch": 1, "token": "ab" * 16}
    asked: dict[str, dict[str, Any]] = {"claim": {"job_id": "j", "queue": "default", "offers": (), "wait_ms": 0}}
    asked |= {"renew": fence, "complete": {**fence, "result": None}, "fail": fence, "release": fence}
    for kind in KINDS:
        wanted = asked.get(kind.model_fields["op"].default)
        assert wanted is None or form(kind)._plain.told(wanted) is not None, kind


def test_fields_that_a_rule_ties_to_others_are_not_plain() -> None:
    assert Plain(ClaimBody).told({"count": 2, "job_id": "j"}) is None
    assert Plain(PutScheduleBody).told({"name": "s", "cron": "* * * * *"}) is None


@pytest.mark.parametrize("wire", ["rq", "intake"])
def test_packed_requests_are_the_commands_they_stand_for(wire: Wire) -> None:
    messages = [
        Message("claims", "a", 1, '{"n":1}'),
        Message("jobs", "b", 1, '{"text":"é, and a {here} of its own"}'),
        Message("claims", "c", 2, 's1 key mac {"signed":"\\"é"}'),
    ]
    commands = queues.commands(messages, wire)
    assert queues.packed(messages, wire) == (b"".join(map(queues.pack, commands)), len(commands))


def test_every_kind_of_request_was_compared() -> None:
    ops = {kind.model_fields["op"].default for kind in KINDS}
    assert ops == set(REQUESTS.json_schema()["discriminator"]["mapping"])


@pytest.mark.parametrize(
    ("op", "given", "told"),
    [
        ("cancel", {"job_id": "a b"}, "job_id: 1 to 128 letters, digits, `.`, `_` or `-`, the first a letter or digit"),
        ("claim", {"queue": ""}, "queue: 1 to 64 letters, digits, `.`, `_` or `-`, the first a letter or digit"),
        ("claim", {"offers": ["a b"]}, "offers.0: write key or key=value"),
        ("submit", {"requires": ["a b"]}, "requires.0: write key, key=value or key>=number"),
        ("remove_limit", {"limit": "builds"}, "limit: write queue:NAME, key:NAME or factory:NAME"),
        ("renew", {"job_id": "a", "epoch": 1, "token": "a b"}, "token: 1 to 128 printable characters without spaces"),
        ("claim", {"wait_ms": -1}, "wait_ms: Input should be greater than or equal to 0"),
        ("put_schedule", {"name": "n", "cron": "x", "job": {}}, "'x' needs 5 fields: minute hour day month weekday"),
    ],
)
def test_a_wrong_argument_is_told_without_the_terms_of_the_library(
    op: str, given: Mapping[str, Any], told: str
) -> None:
    [kind] = [kind for kind in KINDS if kind.model_fields["op"].default == op]
    with pytest.raises(InvalidRequest) as refused:
        form(kind).body(given)
    assert str(refused.value).startswith(told)


def test_a_body_whose_fields_are_too_long_together_is_refused_before_it_is_sent() -> None:
    labels = {f"{number:02d}": "\U0001f680" * 256 for number in range(64)}
    written = form(Submit).body({"payload": "x" * 60_000, "labels": labels})
    assert len(written.encode()) <= BODY_BYTES_MAX
    with pytest.raises(InvalidRequest, match=f"at most {BODY_BYTES_MAX} are taken"):
        form(Submit).body({"payload": "x" * 65_000, "labels": labels})


def test_a_request_id_that_is_none_is_told_so_in_words() -> None:
    check_request_id("a-b_1")
    with pytest.raises(InvalidRequest, match="request_id: 1 to 64 letters, digits, `_` or `-`"):
        check_request_id("a b")


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        (lambda: asked.submit(requires="gpu"), "requires"),
        (lambda: asked.submit(locks="repo"), "locks"),
        (lambda: asked.submit(concurrency="gpu"), "concurrency"),
        (lambda: asked.submit(depends_on="lint"), "depends_on"),
        (lambda: asked.claim(offers="gpu"), "offers"),
        (lambda: asked.explain("job", offers="gpu"), "offers"),
        (lambda: asked.register(offers="gpu"), "offers"),
    ],
)
def test_one_text_is_not_taken_for_the_list_of_its_letters(ask: Callable[[], Any], name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{name}: a list of texts is expected, not one: write"):
        ask()
