"""Requests that a document has been changed by: a late copy of one must not undo what came after it."""

from broker.documents import Frozen
from broker.messages import Request

ASKED_MAX = 16
"""How many a document remembers, the latest last."""


class UsedForAnother(Exception):
    """This factory has used the request id for `op`, which has had its effect. Nothing was changed by this request."""

    def __init__(self, op: str) -> None:
        super().__init__(op)
        self.op = op


class Asked(Frozen, frozen=True, kw_only=True):
    """A request, and whose it was: the same id of another factory is another request."""

    request_id: str
    factory_id: str
    op: str = ""
    """What it asked for, with what it named where the document is about many things. Empty: not known, as of an earlier
    release.
    """


def who_asks(request: Request, about: str | None = None) -> Asked:
    """What is remembered of a request. `about`: which of the things that the document is about."""
    op = request.op if about is None else f"{request.op} {about}"
    return Asked(request_id=request.request_id, factory_id=request.factory_id, op=op)


def has_done(earlier: tuple[Asked, ...], asked: Asked) -> bool:
    """Whether this request has had its effect here.

    Raises:
      UsedForAnother: another of this factory's has, under the same id.
    """
    for known in earlier:
        if (known.request_id, known.factory_id) == (asked.request_id, asked.factory_id):
            if known.op not in ("", asked.op):
                raise UsedForAnother(known.op)
            return True
    return False


def remembering(earlier: tuple[Asked, ...], asked: Asked) -> tuple[Asked, ...]:
    """These requests and one more, without those that are too long ago."""
    return (*earlier[-(ASKED_MAX - 1) :], asked)
