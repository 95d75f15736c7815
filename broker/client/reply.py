"""A reply as a value: the answer in the words of the protocol, and when its request went out."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import astuple, replace

from broker.answers import GOOD, Reason, Retry, Word
from datastore.decoding import from_value
from datastore.value import Value


class Reply(Value, frozen=True):
    """The broker's answer to one request. A refusal is an answer too: look at `good`, or at `answer`."""

    request_id: str
    answer: Word
    reason: Reason | None
    retry: Retry
    server_now_ms: int
    """Broker time of the answer, Unix milliseconds."""
    body: Mapping[str, Any]
    """What belongs to the word; a grant's holds the token, so it is not shown."""
    retry_after_ms: int | None = None
    """With `retry` later: how long to wait before a new request."""
    sent_monotonic_ms: int = 0
    """This host's monotonic clock as the first attempt was sent: what a holder counts its deadline from (I9)."""

    def sent_at(self, monotonic_ms: int) -> "Reply":
        """The same reply as a caller gets it, to what was sent at this moment of the monotonic clock."""
        return Reply(
            self.request_id,
            self.answer,
            self.reason,
            self.retry,
            self.server_now_ms,
            MappingProxyType(self.body),
            self.retry_after_ms,
            monotonic_ms,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """As processes hand replies to each other, the token of a grant too."""
        return _made_again, tuple(dict(each) if isinstance(each, Mapping) else each for each in astuple(self))

    def __repr__(self) -> str:
        return f"<Reply {self.request_id}: {self.summary}>"

    @property
    def good(self) -> bool:
        """Whether the request has had its effect."""
        return self.answer in GOOD

    @property
    def granted(self) -> bool:
        """Whether this gives a lease: the body then holds its job, epoch and token."""
        return "token" in self.body and self.answer in GOOD

    @property
    def grants(self) -> "tuple[Reply, ...]":
        """Each lease this gives as a reply of its own: this one, or those of a claim with `count`."""
        if self.granted:
            return (self,)
        return tuple(replace(self, body=MappingProxyType(dict(grant))) for grant in self.body.get("grants", ()))

    @property
    def results(self) -> "tuple[Reply, ...]":
        """The answers to the parts of one request, such as each lease of `renew_many`, in their order.

        Raises:
          ValueError: one of them is no answer of this version of the protocol.
        """
        parts = self.body.get("results", ())
        try:
            said = from_value(parts, tuple[_Said, ...])
        except msgspec.ValidationError as error:
            raise ValueError(f"not an answer: {error}") from None
        request_id, now_ms, sent_ms = self.request_id, self.server_now_ms, self.sent_monotonic_ms
        replies: list[Reply] = []
        for part, its in zip(parts, said, strict=True):
            body = part.copy()
            del body["answer"], body["reason"], body["retry"]
            body.pop("retry_after_ms", None)
            shown, later_ms = MappingProxyType(body), its.retry_after_ms
            replies.append(Reply(request_id, its.answer, its.reason, its.retry, now_ms, shown, later_ms, sent_ms))
        return tuple(replies)

    @property
    def summary(self) -> str:
        """The answer in a line, without the token: `conflict (held): holder=… epoch=…`."""
        told = ("job_id", "holder", "state", "epoch", "remaining_ms", "outcome", "reasons", "detail")
        details = " ".join(f"{name}={self.body[name]}" for name in told if self.body.get(name) is not None)
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.answer}{reason}" + (f": {details}" if details else "")


def _made_again(*fields: Any) -> Reply:
    *others, sent_ms = fields
    return Reply(*others).sent_at(sent_ms)


class _Said(Struct, kw_only=True, gc=False):
    """The word of an answer, and what belongs to every word."""

    answer: Word
    reason: Reason | None
    retry: Retry
    retry_after_ms: int | None = None


_decode = msgspec.json.Decoder(Reply).decode


def parse_reply(text: bytes) -> Reply:
    """The reply in a JSON text (docs/protocol/reply.schema.json), to what nobody knows yet.

    Raises:
      ValueError: not a reply of this version of the protocol.
    """
    try:
        return _decode(text)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a reply: {error}") from error
