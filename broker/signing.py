"""The signed form of requests and replies: `s1 KEY-ID MAC TEXT`, verified over the text as it came, before it is read.

MAC is HMAC-SHA256, in hex, over `claim-broker PURPOSE`, a newline, and TEXT. The purpose keeps one kind of message from
standing in for another: `request` for what a factory sends; for a reply the channel it is for.
"""

import hmac
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, Self

MARK = b"s1 "
"""How a signed message begins. An unsigned one is JSON, and begins with a brace."""
REQUEST = "request"
SECRET_BYTES = 32
_KEY_ID = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,127}):(factory|submitter|reader|operator):([0-9a-f]{16})")
_FORM = re.compile(rb"s1 (@?[A-Za-z0-9._:-]{1,192}) ([0-9a-f]{64}) ")


class Role(StrEnum):
    """What the owner of a key may ask for (broker/permits.py)."""

    FACTORY = "factory"
    SUBMITTER = "submitter"
    READER = "reader"
    OPERATOR = "operator"


class BadKey(ValueError):
    """Not a key, or not an id of one. The message does not show it."""


class NotSigned(ValueError):
    """Not in the signed form, or signed with another key."""


@dataclass(frozen=True, slots=True)
class KeyId:
    """Who a key belongs to and what it is for. Public; the secret is derived from it."""

    factory: str
    role: Role
    serial: str
    """Sixteen hexadecimal digits; the first four tell which master secret it is derived from."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises BadKey where `text` is not the id of a key."""
        found = _KEY_ID.fullmatch(text)
        if found is None:
            raise BadKey("the id of a key is FACTORY:ROLE:SERIAL, as `broker key list` shows it")
        return cls(found[1], Role(found[2]), found[3])

    def __str__(self) -> str:
        return f"{self.factory}:{self.role}:{self.serial}"


@dataclass(frozen=True, slots=True)
class Key:
    """A secret shared by one factory and the broker."""

    id: str
    secret: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key in a key file: its id, a space, and the secret in hex.

        Raises:
          BadKey: that is no key.
        """
        id, _, secret = text.strip().partition(" ")
        KeyId.parse(id)
        try:
            made = cls(id, bytes.fromhex(secret))
        except ValueError:
            raise BadKey("the secret of a key is hexadecimal; take the file as `broker key new` wrote it") from None
        if len(made.secret) != SECRET_BYTES:
            raise BadKey(f"the secret of a key has {SECRET_BYTES} bytes; take the file as `broker key new` wrote it")
        return made

    @property
    def factory(self) -> str:
        """Whose key it is."""
        return KeyId.parse(self.id).factory

    def text(self) -> str:
        """The line that a key file holds. A secret."""
        return f"{self.id} {self.secret.hex()}\n"

    def signed(self, purpose: str, text: bytes) -> bytes:
        """`text` in the signed form."""
        return b"s1 %b %b %b" % (self.id.encode(), mac(self.secret, purpose, text).encode(), text)

    def opened(self, purpose: str, message: bytes) -> bytes:
        """The text of a message that was signed with this very key.

        Raises:
          NotSigned: it was not.
        """
        message = bytes(message)
        id, given, text = split(message)
        if id != self.id or not hmac.compare_digest(given, mac(self.secret, purpose, text)):
            raise NotSigned("signed with another key, or changed on its way")
        return text


def mac(secret: bytes, purpose: str, text: bytes) -> str:
    """The MAC of a text, in hex."""
    return hmac.digest(secret, b"claim-broker %b\n%b" % (purpose.encode(), text), "sha256").hex()


def split(message: bytes) -> tuple[str, str, bytes]:
    """Key id, MAC and text of a message in the signed form; nothing is verified.

    Raises:
      NotSigned: it has another form.
    """
    found = _FORM.match(message)
    if found is None:
        raise NotSigned("not in the signed form")
    return found[1].decode(), found[2].decode(), message[found.end() :]


class Seal(Protocol):
    """How the broker writes on behalf of, and back to, the sender of one request."""

    @property
    def key_id(self) -> str | None:
        """What the sender signed with; None where it did not sign."""
        ...

    def reply(self, channel: str, text: bytes) -> bytes:
        """A reply to it."""
        ...

    def again(self, envelope: str) -> str:
        """A request that the broker sends on for it."""
        ...


class Unsealed:
    """For senders that did not sign: everything goes as it is."""

    key_id: str | None = None

    def reply(self, channel: str, text: bytes) -> bytes:  # noqa: ARG002
        """The text itself."""
        return text

    def again(self, envelope: str) -> str:
        """The envelope itself."""
        return envelope


UNSEALED: Seal = Unsealed()
