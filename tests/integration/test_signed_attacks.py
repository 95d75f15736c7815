"""Attacks on signed requests: each is refused and changes nothing; each succeeds where nobody looks at signatures."""

import json
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

import pytest
import redis

from broker import signing
from broker.clock import monotonic_ms
from broker.coordinator import Context
from broker.door import GuardedDoor as Guarded
from broker.door import OpenDoor, Taken
from broker.entropy import SystemEntropy
from broker.keyring import Keyring, Masters, record, revoke
from broker.presence import READ_WITHIN_MS, take_back_unread
from broker.queues import SETTLE, rq_job_hash
from broker.signing import Key, Role
from broker.transitions import Rules
from datastore import connect
from tests.in_process import InProcess
from workers import once
from workers.finishing import read_letters

pytestmark = pytest.mark.redis

SECRET = "0123456789abcdef" * 4


class Gullible(OpenDoor):
    """The twin: takes the signature off, and believes what is left."""

    def admit(self, raw: bytes, *, insist: bool, now_ms: int) -> Taken:
        message = json.loads(raw).encode() if raw.startswith(b'"') else raw
        text = signing.split(message)[2] if message.startswith(signing.MARK) else message
        return super().admit(text, insist=insist, now_ms=now_ms)


class Scene:
    """A job that mac-1 holds, and somebody who has recorded all that mac-1 sent."""

    def __init__(self, client: redis.Redis, *, gullible: bool) -> None:
        self.store = connect("memory://")
        self.masters = Masters.parse(SECRET)
        keyring = Keyring(self.masters, self.store, monotonic_ms)
        self.broker = InProcess(self.store, client)
        door = Gullible() if gullible else Guarded(keyring, required=True)
        rules = Context(self.store, Rules(), SystemEntropy(), lambda _ms: None, door=door)
        self.broker.context = rules
        self.holder, self.thief = self._key("mac-1"), self._key("mac-2")
        self.recorded: list[bytes] = []
        self.say("submit", job_id="job")
        self.lease = self.say("claim", job_id="job")

    def say(self, op: str, **body: Any) -> dict[str, Any]:
        """What mac-1 sends; the body of its answer."""
        self.push(self.message(op, **body))
        return self.answer()["body"]  # type: ignore[no-any-return]

    def message(self, op: str, *, key: Key | None = None, factory: str = "mac-1", **body: Any) -> bytes:
        text = self.text(op, factory=factory, **body)
        self.recorded.append((key or self.holder).signed(signing.REQUEST, text))
        return self.recorded[-1]

    def text(self, op: str, *, factory: str = "mac-1", **body: Any) -> bytes:
        deadline_ms = self.broker.clock.now_ms() + 60_000
        fields = {
            "op": op, "request_id": uuid4().hex, "factory_id": factory, "incarnation": "s", "instance": "x",
            "deadline_ms": deadline_ms, "body": body,
        }  # fmt: skip
        return json.dumps(fields).encode()

    def fence(self) -> dict[str, Any]:
        return {name: self.lease[name] for name in ("job_id", "epoch", "token")}

    def push(self, message: bytes) -> None:
        self.broker.redis.rpush("broker:in:leases", message)
        self.broker.serve()

    def push_rq(self, message: bytes) -> None:
        fields = rq_job_hash(message.decode(), queue="leases")
        self.broker.redis.hset("rq:job:attack", mapping=fields)
        self.broker.redis.rpush("rq:queue:leases", "attack")
        self.broker.serve()

    def answer(self) -> dict[str, Any]:
        text = self.broker.redis.lpop("broker:reply:mac-1:x")
        assert isinstance(text, bytes)
        return json.loads(text[text.index(b"{") :])  # type: ignore[no-any-return]

    def look(self) -> Any:
        """All that is stored of jobs and queues; unchanged, nothing happened."""
        page = self.store.find({}, limit=100)
        return [(document.id, document.body) for document in page.documents]

    def _key(self, factory: str, role: Role = Role.FACTORY) -> Key:
        key = self.masters.new_key(factory, role)
        record(self.store, SystemEntropy(), key, now_ms=0)
        return key


def tampered(scene: Scene) -> bytes:
    return scene.message("progress", **scene.fence(), progress={"pct": 1}).replace(b'"pct": 1', b'"pct": 9')


def renewal_replayed(scene: Scene) -> bytes:
    message = scene.message("renew", **scene.fence())
    scene.push(message)
    scene.broker.clock.advance(20_000)
    return message


def cross_factory(scene: Scene) -> bytes:
    return scene.message("complete", key=scene.thief, **scene.fence())


def with_the_id_of_anothers_key(scene: Scene) -> bytes:
    return scene.message("complete", key=Key(scene.holder.id, scene.thief.secret), **scene.fence())


def signature_of_another_request(scene: Scene) -> bytes:
    id, mac, _ = signing.split(scene.message("renew", **scene.fence()))
    return f"s1 {id} {mac} ".encode() + scene.text("complete", **scene.fence())


def not_signed(scene: Scene) -> bytes:
    return scene.text("complete", **scene.fence())


def revoked(scene: Scene) -> bytes:
    key = scene._key("mac-1")
    revoke(scene.store, SystemEntropy(), key.id, now_ms=1)
    return scene.message("complete", key=key, **scene.fence())


def a_request_that_lasts(scene: Scene) -> bytes:
    text = json.loads(scene.text("complete", **scene.fence())) | {"deadline_ms": None}
    return scene.holder.signed(signing.REQUEST, json.dumps(text).encode())


def as_the_broker_itself(scene: Scene) -> bytes:
    return scene.message("complete", key=Key(f"@{scene.holder.id}", scene.thief.secret), **scene.fence())


def an_operators_request(scene: Scene) -> bytes:
    return scene.message("revoke", key=scene.thief, factory="mac-2", job_id="job")


ATTACKS: Mapping[str, Callable[[Scene], bytes]] = {
    attack.__name__: attack
    for attack in (
        tampered, renewal_replayed, cross_factory, with_the_id_of_anothers_key, signature_of_another_request,
        not_signed, revoked, a_request_that_lasts, as_the_broker_itself, an_operators_request,
    )
}  # fmt: skip


@pytest.mark.parametrize("wire", ["intake", "rq"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_and_changes_nothing(redis_client: redis.Redis, attack: str, wire: str) -> None:
    scene = Scene(redis_client, gullible=False)
    message = ATTACKS[attack](scene)
    before = scene.look()
    (scene.push if wire == "intake" else scene.push_rq)(message)
    assert scene.look() == before
    assert read_letters(redis_client, 1)[0]["reason"].startswith("unauthorized: ")


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_same_attack_succeeds_where_nobody_looks(redis_client: redis.Redis, attack: str) -> None:
    scene = Scene(redis_client, gullible=True)
    message = ATTACKS[attack](scene)
    before = scene.look()
    scene.push(message)
    assert scene.look() != before


def test_a_copy_is_refused_while_the_first_is_still_parked_and_the_waiting_client_is_not_misled(
    redis_client: redis.Redis,
) -> None:
    scene = Scene(redis_client, gullible=False)
    message = scene.message("claim", wait_ms=30_000)
    scene.push(message)
    scene.push(message)
    text = redis_client.lpop("broker:reply:mac-1:x")
    assert isinstance(text, bytes)
    assert not text.startswith(signing.MARK), "a client with a key takes it for nothing"
    scene.say("submit", job_id="other")
    scene.broker.serve()
    reply = redis_client.rpop("broker:reply:mac-1:x")
    assert isinstance(reply, bytes)
    granted = json.loads(scene.holder.opened("broker:reply:mac-1:x", reply))
    assert granted["body"]["job_id"] == "other"


def test_a_grant_that_nobody_reads_is_taken_back_under_the_same_key(redis_client: redis.Redis) -> None:
    scene = Scene(redis_client, gullible=False)
    scene.push(scene.message("claim", wait_ms=30_000))
    scene.say("submit", job_id="other")
    scene.broker.serve()
    scene.broker.clock.advance(READ_WITHIN_MS)
    context, now_ms = scene.broker.context, scene.broker.clock.now_ms()
    assert take_back_unread(redis_client, context.entropy, now_ms=now_ms, door=context.door) == 1
    scene.broker.serve()
    assert json.loads(json.dumps(scene.store.read("other", "other").document.body))["state"] == "ready"  # type: ignore[union-attr]


def test_a_request_in_the_hands_of_a_worker_that_died_is_no_copy(redis_client: redis.Redis) -> None:
    scene = Scene(redis_client, gullible=False)
    redis_client.rpush("broker:in:leases", scene.message("complete", **scene.fence()))
    scene.broker.settle(scene.broker.take("w1").entries, "w1")  # and dies before it answers
    scene.broker.kill("w1")
    scene.broker.take_over("w2")
    assert scene.answer()["answer"] in ("ok", "replayed")


def killed_with_a_copy_in_hand(scene: Scene, message: bytes, *, copies: int = 1) -> None:
    scene.broker.redis.rpush("broker:in:leases", *[message] * copies)
    scene.broker.take("w1")
    scene.broker.kill("w1")
    scene.broker.take_over("w2")


def test_a_copy_of_what_is_settled_stays_one_in_the_hands_of_a_worker_that_died(redis_client: redis.Redis) -> None:
    scene = Scene(redis_client, gullible=False)
    message = renewal_replayed(scene)
    before = scene.look()
    killed_with_a_copy_in_hand(scene, message)
    assert scene.look() == before
    assert read_letters(redis_client, 1)[0]["reason"].startswith("unauthorized: ")


def test_a_mark_that_does_not_tell_what_is_settled_lets_such_a_copy_in(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin."""
    monkeypatch.setattr(once, "settled", lambda _pipe, _macs: None)
    scene = Scene(redis_client, gullible=False)
    message = renewal_replayed(scene)
    before = scene.look()
    killed_with_a_copy_in_hand(scene, message)
    assert scene.look() != before


def test_a_request_that_stands_twice_in_the_hands_of_a_worker_that_died_is_taken_once(
    redis_client: redis.Redis,
) -> None:
    scene = Scene(redis_client, gullible=False)
    message = scene.message("renew", **scene.fence())
    killed_with_a_copy_in_hand(scene, message, copies=2)
    assert scene.answer()["answer"] == "renewed"
    assert len(read_letters(redis_client, 9)) == 1


def test_a_waiting_claim_that_is_parked_is_settled_for_its_copies(redis_client: redis.Redis) -> None:
    scene = Scene(redis_client, gullible=False)
    message = scene.message("claim", wait_ms=30_000)
    scene.push(message)
    killed_with_a_copy_in_hand(scene, message)
    assert len(read_letters(redis_client, 9)) == 1


def test_a_mark_that_is_none_stops_no_worker(redis_client: redis.Redis) -> None:
    scene = Scene(redis_client, gullible=False)
    message = scene.message("renew", **scene.fence())
    redis_client.rpush(f"broker:once:{signing.split(message)[1]}", "garbage")
    killed_with_a_copy_in_hand(scene, message)
    assert scene.answer()["answer"] == "renewed"


def test_a_rq_job_may_name_the_function_and_the_message_only(redis_client: redis.Redis) -> None:
    scene = Scene(redis_client, gullible=False)
    data = json.dumps([SETTLE, None, [scene.message("complete", **scene.fence()).decode(), "x"], {}])
    redis_client.hset("rq:job:two", mapping={**rq_job_hash("{}", queue="leases"), "data": data})
    redis_client.rpush("rq:queue:leases", "two")
    scene.broker.serve()
    assert read_letters(redis_client, 1)[0]["reason"].endswith("takes one argument, the envelope")


def test_the_mac_of_a_request_is_remembered_no_longer_than_its_deadline(redis_client: redis.Redis) -> None:
    scene = Scene(redis_client, gullible=False)
    scene.say("renew", **scene.fence())
    [key, *_] = redis_client.keys("broker:once:*")
    assert 0 < redis_client.pttl(key) <= 61_000
