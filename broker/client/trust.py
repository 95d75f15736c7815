"""What a client does with its key: sign what it sends, and believe only what the broker signed for its channel."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Self

from msgspec.structs import replace

from broker import signing
from broker.answers import Retry, Word
from broker.client.call import Address
from broker.client.errors import InvalidRequest
from broker.client.logger import Logger
from broker.client.reply import Reply, parse_reply
from broker.queues import Sign
from broker.signing import BadKey, Key

log = Logger(__name__)
TOLD_MAX = 16
NOT_SIGNED = "not_signed"
"""In the body of an answer that stands for replies which can't be believed."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Without a key: nothing is signed and everything believed."""

    channel: str
    """The reply channel of the client."""
    key: Key | None
    _told: set[str] = field(default_factory=set, repr=False, compare=False)

    @classmethod
    def of(cls, key: str | None, address: Address) -> Self:
        """The trust of a client with this key, or with none.

        Raises:
          InvalidRequest: not a key, or another factory's.
        """
        if key is None:
            return cls(address.channel, None)
        try:
            parsed = Key.parse(key)
        except BadKey as error:
            raise InvalidRequest(f"key: {error}") from None
        if parsed.factory != address.factory_id:
            raise InvalidRequest(f"key: it is {parsed.factory}'s, and this client asks for {address.factory_id}")
        return cls(address.channel, parsed)

    @property
    def sign(self) -> Sign | None:
        """What makes an envelope what travels; None where it travels as it is."""
        return None if self.key is None else partial(_signed, self.key)

    @property
    def read(self) -> Callable[[bytes], Reply]:
        """What reads the reply in a message, or raises ValueError: not a reply, or signed for somebody else."""
        return parse_reply if self.key is None else partial(self._opened, self.key)

    def _opened(self, key: Key, message: bytes) -> Reply:
        """Unsigned, it decides nothing: the call goes on under the same id, and at its end says what was told."""
        if message.startswith(signing.MARK):
            return parse_reply(key.opened(self.channel, message))
        reply = parse_reply(message)
        said = f"{reply.answer}: {reply.body.get('detail', reply.reason)}"
        told = f"replies came that are not signed with the key {key.id}: it may have been revoked. They said {said}"
        if told not in self._told:  # a call goes on, and is answered so each time
            log.warning("reply_not_signed", answer=reply.answer.value, detail=reply.body.get("detail"))
            if len(self._told) < TOLD_MAX:
                self._told.add(told)
        detail: Mapping[str, Any] = MappingProxyType({"detail": told, NOT_SIGNED: True})
        return replace(
            reply, answer=Word.OUTCOME_UNKNOWN, reason=None, retry=Retry.SAME_ID, retry_after_ms=None, body=detail
        )


def _signed(key: Key, envelope: str) -> str:
    return key.signed(signing.REQUEST, envelope.encode()).decode()
