"""Requests that a document has been changed by: a late copy of one must not undo what came after it."""

from broker.documents import Frozen
from broker.messages import Envelope

ASKED_MAX = 16
"""How many a document remembers, the latest last."""


class Asked(Frozen, frozen=True, kw_only=True):
    """A request, and whose it was: the same id of another factory is another request."""

    request_id: str
    factory_id: str


def who_asks(request: Envelope) -> Asked:
    """What is remembered of a request."""
    return Asked(request_id=request.request_id, factory_id=request.factory_id)


def remembering(earlier: tuple[Asked, ...], asked: Asked) -> tuple[Asked, ...]:
    """These requests and one more, without those that are too long ago."""
    return (*earlier[-(ASKED_MAX - 1) :], asked)
