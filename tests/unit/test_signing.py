"""The signed form, and the door that only it opens: who signed, whose key, which channel, which role, how late."""

import json
from concurrent.futures import Future
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from broker import replies, signing
from broker.answers import Reason, Word
from broker.client.call import Address, BrokerTime, Call
from broker.client.errors import InvalidRequest
from broker.client.pending import Pending
from broker.client.trust import Trust
from broker.clock import ManualClock
from broker.door import WINDOW_MS, GuardedDoor, Taken, Unauthorized
from broker.entropy import SystemEntropy
from broker.keyring import STANDING_MS, BadMaster, Keyring, Masters, record, records, revoke
from broker.messages import Claim
from broker.parsing import Malformed
from broker.signing import BadKey, Key, KeyId, NotSigned, Role
from datastore import Datastore, Unavailable, connect
from tests.twins.forwarding import Forwarding

SECRET = "0123456789abcdef" * 4
NOW_MS = 1_700_000_000_000


class Gate:
    """A guarded door with a store, a clock and keys at hand."""

    def __init__(self, *, required: bool = True, store: Datastore | None = None) -> None:
        self.clock = ManualClock(1_000_000)
        self.store = store or connect("memory://")
        self.masters = Masters.parse(SECRET)
        self.door = GuardedDoor(Keyring(self.masters, self.store, self.clock.now_ms), required=required)

    def key(self, factory: str = "mac-1", role: Role = Role.FACTORY) -> Key:
        key = self.masters.new_key(factory, role)
        record(self.store, SystemEntropy(), key, now_ms=NOW_MS)
        return key

    def admit(self, raw: bytes) -> Taken:
        return self.door.admit(raw, insist=False, now_ms=NOW_MS)

    def refusal(self, raw: bytes) -> Unauthorized:
        with pytest.raises(Unauthorized) as refused:
            self.admit(raw)
        return refused.value


def envelope(op: str = "claim", factory: str = "mac-1", **changes: Any) -> bytes:
    body = {
        "claim": {"job_id": "job"}, "submit": {"job_id": "job"}, "get_job": {"job_id": "job"},
        "cancel": {"job_id": "job"}, "pause_queue": {"queue": "q"}, "revoke": {"job_id": "job"},
        "drain_factory": {"factory": "mac-1"},
    }[op]  # fmt: skip
    fields = {
        "op": op, "request_id": uuid4().hex, "factory_id": factory, "incarnation": "s", "instance": "x",
        "deadline_ms": NOW_MS + 10_000, "body": body, **changes,
    }  # fmt: skip
    return json.dumps(fields).encode()


def signed(key: Key, text: bytes) -> bytes:
    return key.signed(signing.REQUEST, text)


def test_what_the_owner_of_a_key_signed_comes_in_and_is_answered_under_the_same_key() -> None:
    gate = Gate()
    key = gate.key()
    taken = gate.admit(signed(key, envelope()))
    assert taken.request.factory_id == "mac-1"
    reply = taken.seal.reply("broker:reply:mac-1:x", b"{}")
    assert key.opened("broker:reply:mac-1:x", reply) == b"{}"


def test_on_rqs_wire_the_same_message_comes_as_a_json_text() -> None:
    gate = Gate()
    message = signed(gate.key(), envelope())
    assert gate.admit(json.dumps(message.decode()).encode()).once == gate.admit(message).once


def test_every_changed_byte_is_noticed() -> None:
    gate = Gate()
    message = signed(gate.key(), envelope())
    for position in range(len(message)):
        changed = bytearray(message)
        changed[position] ^= 1
        with pytest.raises(Malformed) as refused:
            gate.admit(bytes(changed))
        assert isinstance(refused.value, Unauthorized), (position, bytes(changed))


@pytest.mark.parametrize("cut", [1, 10, 64])
def test_a_message_with_something_cut_off_or_added_is_refused(cut: int) -> None:
    gate = Gate()
    message = signed(gate.key(), envelope())
    assert gate.refusal(message[:-cut]).answer.reason is Reason.BAD_SIGNATURE
    assert gate.refusal(message + b" " * cut).answer.reason is Reason.BAD_SIGNATURE


def test_unsigned_requests_come_in_only_where_they_may() -> None:
    refusal = Gate().refusal(envelope())
    assert (refusal.answer.word, refusal.answer.reason) == (Word.UNAUTHORIZED, Reason.UNSIGNED)
    assert refusal.seal.reply("channel", b"{}") == b"{}", "nobody has proved to be anybody: no signature for them"
    assert Gate(required=False).admit(envelope()).seal.key_id is None


def test_a_signature_that_is_wrong_is_refused_also_where_none_is_required() -> None:
    gate = Gate(required=False)
    key = gate.key()
    assert gate.refusal(signed(key, envelope()) + b" ").answer.reason is Reason.BAD_SIGNATURE
    assert gate.refusal(signed(key, envelope(factory="mac-2"))).answer.reason is Reason.FOREIGN_FACTORY


def test_a_key_speaks_for_its_own_factory_only_and_its_owner_is_told() -> None:
    gate = Gate()
    key = gate.key("mac-1")
    refusal = gate.refusal(signed(key, envelope(factory="mac-2")))
    assert refusal.answer.reason is Reason.FOREIGN_FACTORY
    assert refusal.sender["factory_id"] == "mac-1", "never on the channel of the factory it claims to be"
    assert key.opened("c", refusal.seal.reply("c", b"{}")) == b"{}"


def test_a_secret_does_not_sign_for_another_key_id() -> None:
    gate = Gate()
    one, other = gate.key(), gate.key(role=Role.OPERATOR)
    forged = Key(other.id, one.secret)
    assert gate.refusal(signed(forged, envelope())).answer.reason is Reason.BAD_SIGNATURE


def test_a_reply_is_no_request_and_a_reply_to_one_channel_none_to_another() -> None:
    gate = Gate()
    key = gate.key()
    text = envelope()
    assert gate.refusal(key.signed("broker:reply:mac-1:x", text)).answer.reason is Reason.BAD_SIGNATURE
    with pytest.raises(NotSigned):
        key.opened("broker:reply:mac-1:y", key.signed("broker:reply:mac-1:x", text))


def test_a_key_that_was_never_recorded_opens_nothing_though_its_secret_is_right() -> None:
    gate = Gate()
    derived = gate.masters.new_key("mac-1", Role.FACTORY)
    assert gate.refusal(signed(derived, envelope())).answer.reason is Reason.UNKNOWN_KEY
    record(gate.store, SystemEntropy(), derived, now_ms=NOW_MS)
    assert gate.admit(signed(derived, envelope())), "a key can be used as soon as it is made"


def test_a_key_of_another_secret_is_unknown() -> None:
    stranger = Masters.parse("f" * 64).new_key("mac-1", Role.FACTORY)
    assert Gate().refusal(signed(stranger, envelope())).answer.reason is Reason.UNKNOWN_KEY


def test_a_revoked_key_opens_nothing_after_a_second_and_another_key_of_the_factory_goes_on() -> None:
    gate = Gate()
    old, new = gate.key(), gate.key()
    assert gate.admit(signed(old, envelope()))
    assert revoke(gate.store, SystemEntropy(), old.id, now_ms=NOW_MS)
    gate.clock.advance(STANDING_MS)
    assert gate.refusal(signed(old, envelope())).answer.reason is Reason.KEY_REVOKED
    assert gate.admit(signed(new, envelope()))
    assert not revoke(gate.store, SystemEntropy(), "mac-1:factory:" + "0" * 16, now_ms=NOW_MS)
    assert {each.id: each.revoked_ms for each in records(gate.store)} == {old.id: NOW_MS, new.id: None}


class _Down(Forwarding):
    """A store that can't be read for the time being."""

    down = False

    def read(self, id: str, partition_key: str) -> Any:
        if self.down:
            raise Unavailable("down")
        return super().read(id, partition_key)


def test_where_the_record_cant_be_read_the_answer_is_unknown_not_a_refusal() -> None:
    store = _Down(connect("memory://"))
    gate = Gate(store=store)
    known, other = gate.key(), gate.key()
    gate.admit(signed(known, envelope()))
    store.down = True
    gate.clock.advance(10 * STANDING_MS)
    assert gate.admit(signed(known, envelope())), "what was read of it holds until something else can be read"
    assert gate.refusal(signed(other, envelope())).answer.word is Word.OUTCOME_UNKNOWN


@pytest.mark.parametrize("deadline_ms", [None, NOW_MS + WINDOW_MS + 1])
def test_a_signed_request_that_could_be_sent_again_later_is_refused(deadline_ms: int | None) -> None:
    gate = Gate()
    refusal = gate.refusal(signed(gate.key(), envelope(deadline_ms=deadline_ms)))
    assert refusal.answer.reason is Reason.OUTSIDE_WINDOW


@pytest.mark.parametrize(
    ("role", "may", "may_not"),
    [
        (Role.READER, ["get_job"], ["claim", "submit", "cancel", "pause_queue", "revoke", "drain_factory"]),
        (Role.SUBMITTER, ["get_job", "submit", "cancel"], ["claim", "pause_queue", "revoke", "drain_factory"]),
        (Role.FACTORY, ["get_job", "submit", "claim", "drain_factory"], ["cancel", "pause_queue", "revoke"]),
        (Role.OPERATOR, ["get_job", "submit", "claim", "cancel", "pause_queue", "revoke", "drain_factory"], []),
    ],
)
def test_a_role_may_ask_for_its_own_operations(role: Role, may: list[str], may_not: list[str]) -> None:
    gate = Gate()
    key = gate.key(role=role)
    for op in may:
        assert gate.admit(signed(key, envelope(op))).request.op == op
    for op in may_not:
        assert gate.refusal(signed(key, envelope(op))).answer.reason is Reason.NOT_PERMITTED


def test_a_factory_drains_itself_and_no_other() -> None:
    gate = Gate()
    text = envelope("drain_factory", body={"factory": "mac-2"})
    refused = gate.refusal(signed(gate.key(), text))
    assert refused.answer.reason is Reason.NOT_PERMITTED
    assert "drain_factory of another factory is not for a key with the role factory" in str(refused)


def test_a_signed_request_that_is_malformed_is_told_so_under_its_key() -> None:
    gate = Gate()
    key = gate.key()
    with pytest.raises(Malformed) as refused:
        gate.admit(signed(key, envelope(deadline_ms="tomorrow")))
    assert not isinstance(refused.value, Unauthorized)
    assert key.opened("c", refused.value.seal.reply("c", b"{}"))
    with pytest.raises(Malformed) as foreign:
        gate.admit(signed(key, envelope(factory="mac-2", deadline_ms="tomorrow")))
    assert foreign.value.sender["factory_id"] == "mac-1", "on the channel of the key's owner, whatever else it says"


def test_what_the_broker_sends_on_comes_in_again_and_no_factory_can_make_it() -> None:
    gate = Gate()
    key = gate.key()
    taken = gate.admit(signed(key, envelope()))
    again = gate.admit(taken.seal.again(envelope().decode()).encode())
    assert again.seal.key_id == key.id
    assert again.once is None, "a claim may be parked and woken many times"
    assert gate.refusal(signed(Key(f"@{key.id}", key.secret), envelope())).answer.reason is Reason.BAD_SIGNATURE


def test_keys_of_an_old_secret_hold_while_it_is_listed() -> None:
    gate = Gate()
    old = gate.key()
    both = Masters.parse(f"{'e' * 64}\n{SECRET}\n")
    door = GuardedDoor(Keyring(both, gate.store, gate.clock.now_ms), required=True)
    assert door.admit(signed(old, envelope()), insist=False, now_ms=NOW_MS)
    assert both.new_key("mac-1", Role.FACTORY).id.split(":")[2][:4] != old.id.split(":")[2][:4]


@pytest.mark.parametrize("text", ["", "\n", "short", f"{SECRET}\nshort"])
def test_a_signing_secret_has_to_be_one(text: str) -> None:
    with pytest.raises(BadMaster):
        Masters.parse(text)


@pytest.mark.parametrize(
    "text", ["", "x", "mac-1:factory:0123456789abcdef", f"mac-1:king:{'0' * 16} {SECRET}", f"a:factory:{'0' * 16} zz"]
)
def test_a_key_file_that_holds_no_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(BadKey) as refused:
        Key.parse(text)
    assert SECRET not in str(refused.value)


def test_a_key_is_never_shown() -> None:
    key = Masters.parse(SECRET).new_key("mac-1", Role.FACTORY)
    assert Key.parse(key.text()) == key
    assert key.secret.hex() not in repr(key)
    assert KeyId.parse(key.id).role is Role.FACTORY


# The client's side.

ADDRESS = Address(factory_id="mac-1", incarnation="s", instance="x")
CHANNEL = replies.reply_key("mac-1", "x")
REPLY: dict[str, Any] = {
    "v": 1, "request_id": "r", "answer": "granted", "reason": None, "retry": "final", "server_now_ms": 1,
    "body": {"job_id": "j", "epoch": 1, "token": "t"},
}  # fmt: skip


def trusting() -> tuple[Key, Trust]:
    key = Masters.parse(SECRET).new_key("mac-1", Role.FACTORY)
    return key, Trust.of(key.text(), ADDRESS)


def test_a_client_believes_what_was_signed_for_its_channel() -> None:
    key, trust = trusting()
    assert trust.read(key.signed(CHANNEL, json.dumps(REPLY).encode())).granted


def test_a_client_with_a_key_does_not_believe_an_unsigned_reply_and_asks_again() -> None:
    _, trust = trusting()
    reply = trust.read(json.dumps(REPLY).encode())
    assert (reply.answer, reply.retry.value, reply.grants) == (Word.OUTCOME_UNKNOWN, "same_id", ())


def test_an_unsigned_reply_that_comes_again_is_logged_once() -> None:
    _, trust = trusting()
    refused = json.dumps({**REPLY, "answer": "unauthorized", "body": {"detail": "the key is revoked"}}).encode()
    with capture_logs() as logs:
        for _ in range(3):
            assert trust.read(refused).answer is Word.OUTCOME_UNKNOWN
    expected = {"event": "reply_not_signed", "answer": "unauthorized", "detail": "the key is revoked"}
    assert logs == [{**expected, "log_level": "warning"}]


def test_an_unsigned_reply_gives_away_no_grant_that_comes_after_it_and_tells_no_time() -> None:
    key, trust = trusting()
    time = BrokerTime()
    time.learn(NOW_MS, sent_ms=0, received_ms=0)
    pending = Pending(time, lambda: 10, read=trust.read)
    asked = Call(Claim, {}, ADDRESS, request_id=None, timeout_ms=5_000, now_ms=0, entropy=SystemEntropy())
    pending.expect(asked, Future())
    refused = {**REPLY, "request_id": asked.request_id, "answer": "unauthorized", "body": {}}
    for forged_ms in (0, NOW_MS * 2):
        assert pending.deliver(json.dumps({**refused, "server_now_ms": forged_ms}).encode()) == ()
        pending.expect(asked, Future())
    assert time.at(0) == NOW_MS, "a holder shortens its leases by it"
    granted = {**REPLY, "request_id": asked.request_id, "server_now_ms": NOW_MS + 5}
    pending.forget(asked, abandoned=False)  # between two attempts nobody waits
    assert pending.deliver(key.signed(CHANNEL, json.dumps(granted).encode())) == (), "it would be released at once"


def test_a_client_with_a_key_drops_what_another_key_or_another_channel_was_signed_for() -> None:
    key, trust = trusting()
    stranger, _ = trusting()
    text = json.dumps(REPLY).encode()
    for message in (
        stranger.signed(CHANNEL, text),
        Key(key.id, stranger.secret).signed(CHANNEL, text),
        key.signed(replies.reply_key("mac-1", "y"), text),
        key.signed(signing.REQUEST, text),
    ):
        with pytest.raises(NotSigned):
            trust.read(message)


def test_a_client_does_not_start_with_another_factorys_key() -> None:
    key = Masters.parse(SECRET).new_key("mac-2", Role.FACTORY)
    with pytest.raises(InvalidRequest, match="mac-2's"):
        Trust.of(key.text(), ADDRESS)
