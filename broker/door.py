"""Who may come in: the one guard that every request passes, on either wire, before it is read.

signed form -> key -> MAC over the text -> record of the key -> read -> factory, role, time -> (workers) once only
"""

import hmac
from dataclasses import dataclass
from typing import Any, Protocol

import pydantic_core

from broker import signing
from broker.answers import Answer, Reason, Word
from broker.keyring import CACHED_MAX, FORWARDED, Keyring, Standing
from broker.messages import Request
from broker.parsing import Malformed, parse, sender_of
from broker.permits import in_words, permitted
from broker.signing import UNSEALED, Key, KeyId, NotSigned, Seal
from datastore import DatastoreError
from datastore.value import Value

WINDOW_MS = 900_000
"""How far ahead the deadline of a signed request may lie. As long as answers are remembered (design §9), so that a copy
is either past its deadline or known."""


class Unauthorized(Malformed):
    """Whoever sent it has not proved that they may. Nothing was done."""

    def __init__(self, reason: Reason, message: str, *, sender: dict[str, Any], word: Word = Word.UNAUTHORIZED) -> None:
        super().__init__(f"{word}: {message}", sender=sender)
        self._answer = Answer(word, reason, {"detail": message})

    @property
    def answer(self) -> Answer:
        """What its sender is told."""
        return self._answer


class Taken(Value, frozen=True):
    """A request in hand. `insist`: taken over from a dead worker, so its mark in Redis does not count."""

    request: Request
    insist: bool = False
    seal: Seal = UNSEALED
    """How to write back to its sender."""
    once: str | None = None
    """What a copy of it would carry too; it is taken once. None: it may come again."""

    @property
    def resend(self) -> bool:
        """Whether it may have been settled before."""
        return self.insist or self.request.attempt > 1


class Door(Protocol):
    """What requests come in by."""

    def admit(self, raw: bytes, *, insist: bool, now_ms: int) -> Taken:
        """The request in `raw`.

        Raises:
          Unauthorized: it is not proved who sent it, or they may not ask for this.
          Malformed: it can't be understood.
        """
        ...

    def forward(self, key_id: str | None) -> Seal:
        """How to send on a request in the name of whoever signed with this key."""
        ...


class OpenDoor:
    """Signing is off: whoever reaches Redis is served."""

    def admit(self, raw: bytes, *, insist: bool, now_ms: int) -> Taken:  # noqa: ARG002
        """Whatever can be understood. A signed request can't: its sender, who would believe no answer, is told so."""
        try:
            return Taken(parse(raw), insist)
        except Malformed:
            message = _unquoted(raw)
            if not message.startswith(signing.MARK):
                raise
            why = "signatures are not looked at here: set BROKER_SIGNING of the workers, or take the client's key away"
            raise Unauthorized(Reason.UNKNOWN_KEY, why, sender=sender_of(_text(message))) from None

    def forward(self, key_id: str | None) -> Seal:  # noqa: ARG002
        """As it is."""
        return UNSEALED


OPEN_DOOR: Door = OpenDoor()


@dataclass(frozen=True, slots=True)
class KeySeal:
    """Writes back under the key that a request was signed with, and sends it on under the broker's twin of that key."""

    key: Key
    twin: Key

    @property
    def key_id(self) -> str | None:
        """What the sender signed with."""
        return self.key.id

    def reply(self, channel: str, text: bytes) -> bytes:
        """A reply that only this channel's client takes."""
        return self.key.signed(channel, text)

    def again(self, envelope: str) -> str:
        """A request that the broker sends on."""
        return self.twin.signed(signing.REQUEST, envelope.encode()).decode()


class GuardedDoor:
    """Lets in what is signed; what is not, only where that is not `required`."""

    def __init__(self, keyring: Keyring, *, required: bool) -> None:
        self._keyring = keyring
        self._required = required
        self._owners: dict[str, tuple[KeyId, Seal]] = {}

    def admit(self, raw: bytes, *, insist: bool, now_ms: int) -> Taken:
        """The request, once its signature is verified over `raw`; it is read only then."""
        message = _unquoted(raw)
        if not message.startswith(signing.MARK):
            if self._required:
                why = "requests have to be signed here; give the client a key (BROKER_KEY_FILE)"
                raise Unauthorized(Reason.UNSIGNED, why, sender=sender_of(message))
            return Taken(parse(message), insist)
        id, mac, text = self._verified(message)
        owner = id.removeprefix(FORWARDED)
        key_id, seal = self._owner(owner)
        self._check_standing(owner, text)
        try:
            request = parse(text)
        except Malformed as error:
            error.seal = seal
            error.sender |= {"factory_id": key_id.factory} if error.sender else {}
            raise
        _check_owner(key_id, request, seal)
        if owner != id:  # the broker's own copy: it may come again, and was within the window when it came first
            return Taken(request, insist, seal)
        _check_window(request, seal, now_ms)
        return Taken(request, insist, seal, once=mac)

    def forward(self, key_id: str | None) -> Seal:
        """Under the broker's twin of that key."""
        return UNSEALED if key_id is None or self._keyring.key(key_id) is None else self._owner(key_id)[1]

    def _owner(self, key_id: str) -> tuple[KeyId, Seal]:
        """What follows from the id of a key alone; kept, since each request needs it."""
        known = self._owners.get(key_id)
        if known is None:
            key, twin = self._keyring.key(key_id), self._keyring.key(FORWARDED + key_id)
            assert key is not None and twin is not None, "its id was looked at before"  # noqa: PT018
            known = self._owners[key_id] = KeyId.parse(key_id), KeySeal(key, twin)
            if len(self._owners) > CACHED_MAX:
                self._owners.pop(next(iter(self._owners)))
        return known

    def _verified(self, message: bytes) -> tuple[str, str, bytes]:
        """Key id, MAC and text of a message that the owner of the key has signed."""
        try:
            id, given, text = signing.split(message)
        except NotSigned as error:
            raise Unauthorized(Reason.BAD_SIGNATURE, str(error), sender={}) from None
        key = self._keyring.key(id)
        if key is None:
            why = "no such key was made with the signing secret of this worker"
            raise Unauthorized(Reason.UNKNOWN_KEY, why, sender=sender_of(text))
        if not hmac.compare_digest(given, signing.mac(key.secret, signing.REQUEST, text)):
            why = "not signed with the key it names, or changed on its way"
            raise Unauthorized(Reason.BAD_SIGNATURE, why, sender=sender_of(text))
        return id, given, text

    def _check_standing(self, owner: str, text: bytes) -> None:
        try:
            standing = self._keyring.standing(owner)
        except DatastoreError as error:
            why = f"the record of the key can't be read: {type(error).__name__}"
            raise Unauthorized(Reason.STORE, why, sender=sender_of(text), word=Word.OUTCOME_UNKNOWN) from error
        if standing is Standing.REVOKED:
            why = f"the key {owner} is revoked; ask for another one"
            raise Unauthorized(Reason.KEY_REVOKED, why, sender=sender_of(text))
        if standing is Standing.UNKNOWN:
            raise Unauthorized(Reason.UNKNOWN_KEY, "no such key was made here", sender=sender_of(text))


def _check_owner(owner: KeyId, request: Request, seal: Seal) -> None:
    """Raise where the request is another factory's, or not for this role. The answer goes to the owner of the key."""
    sender = {"request_id": request.request_id, "factory_id": owner.factory, "instance": request.instance}
    if request.factory_id != owner.factory:
        why = f"signed with a key of {owner.factory}, for another factory"
        raise sealed(Unauthorized(Reason.FOREIGN_FACTORY, why, sender=sender), seal)
    if not permitted(owner, request):
        why = f"{in_words(owner, request)} is not for a key with the role {owner.role}"
        raise sealed(Unauthorized(Reason.NOT_PERMITTED, why, sender=sender), seal)


def _check_window(request: Request, seal: Seal, now_ms: int) -> None:
    """Raise where a copy could come after the answer is forgotten. Past its deadline, a request is dropped anyway."""
    if request.deadline_ms is None or request.deadline_ms > now_ms + WINDOW_MS:
        why = f"a signed request needs a deadline_ms that is at most {WINDOW_MS // 60_000} minutes away, in broker time"
        raise sealed(Unauthorized(Reason.OUTSIDE_WINDOW, why, sender=address(request)), seal)


def repeated(request: Request) -> Unauthorized:
    """The refusal of a copy. Not sealed: its sender may not be the one who signed, whose own answer is on its way."""
    return Unauthorized(Reason.REPEATED, "the same signed request came before", sender=address(request))


def sealed(refusal: Unauthorized, seal: Seal) -> Unauthorized:
    """The same refusal, to be answered under the key of whoever signed."""
    refusal.seal = seal
    return refusal


def address(request: Request) -> dict[str, Any]:
    """Where a reply goes."""
    return {"request_id": request.request_id, "factory_id": request.factory_id, "instance": request.instance}


def _text(message: bytes) -> bytes:
    """The text in a signed message, whoever signed it."""
    try:
        return signing.split(message)[2]
    except NotSigned:
        return b""


def _unquoted(raw: bytes) -> bytes:
    """On rq's wire the argument is JSON, so that a signed message is a text in quotes."""
    if not raw.startswith(b'"'):
        return raw
    try:
        text = pydantic_core.from_json(raw)
    except ValueError:
        return raw
    return text.encode() if isinstance(text, str) else raw
