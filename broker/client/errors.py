"""What a client raises, split by one question: may the request have taken effect?

ClientError
├── InvalidRequest        an argument is outside its limits; nothing was sent
│   └── InvalidUrl        ... the URL of Redis, as a client is made
├── BrokerUnavailable     Redis can't be reached, or refused; nothing was sent
├── BrokerTimeout         no answer in time; it may have taken effect: repeat `request_id`
├── RequestRefused        answered, and not carried out; `reply` says why
│   └── NotGranted        ... a claim that `lease()` made
├── LeaseLost             the lease is over; whatever its holder still does must not count
└── ClientClosed          this client is closed, or belongs to another process; with a `request_id`: as BrokerTimeout
"""

from collections.abc import Mapping
from typing import Any

from broker.client.reply import Reply


class ClientError(Exception):
    """Root of everything a client raises on purpose. Answers of the broker are returned, as a `Reply`."""

    def __reduce__(self) -> tuple[Any, ...]:
        """As processes hand errors to each other: what each kind is made from is in its text and its fields."""
        return _made_again, (type(self), self.args, self.__dict__)


class InvalidRequest(ClientError, ValueError):
    """An argument is outside its limits. Nothing was sent."""


class InvalidUrl(InvalidRequest):
    """No connection can be made of this URL of Redis, whatever runs there."""


class BrokerUnavailable(ClientError):
    """Redis can't be reached, or refused the request. Certainly nothing was sent; it may be tried again.

    `refused`: Redis answered, with the password or the rights it has against it. Another try needs others.
    `answers`: it did, and takes nothing now, such as where it is full.
    """

    def __init__(self, message: str, *, refused: bool = False, answers: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
        self.answers = answers or refused


class BrokerTimeout(ClientError):
    """No answer in time. The request may have taken effect, or may still do so until its deadline.

    Repeat it with `request_id=error.request_id`, from a client with the same factory id and incarnation: what
    has taken effect is then answered, not done twice. `reply`: the answer that says so, where there was one.
    """

    def __init__(self, message: str, *, request_id: str, reply: Reply | None = None) -> None:
        super().__init__(f"{message}; repeat it with request id {request_id}")
        self.request_id = request_id
        self.reply = reply


class RequestRefused(ClientError):
    """The broker answered and did not do it, or does not know (`outcome_unknown`). `reply` holds the answer."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"the broker answered {reply.summary}")
        self.reply = reply


class NotGranted(RequestRefused):
    """The claim was answered without a lease: nothing available, a conflict, no such job. `reply` says which."""


class LeaseLost(ClientError):
    """The lease is over, or its holder can't be sure that it is not. Stop, and undo nothing that others may see."""

    def __init__(self, job_id: str, epoch: int, reason: str) -> None:
        super().__init__(f"{job_id}: the lease of epoch {epoch} is lost ({reason})")
        self.job_id = job_id
        self.epoch = epoch
        self.reason = reason


class ClientClosed(ClientError):
    """This client is closed, or belongs to another process (a fork must open its own) or another event loop.

    `request_id`: it was closed while this request was on its way, which may have taken effect: as with
    `BrokerTimeout`. None: nothing was sent.
    """

    def __init__(self, message: str, *, request_id: str | None = None) -> None:
        super().__init__(message if request_id is None else f"{message}; repeat it with request id {request_id}")
        self.request_id = request_id


def _made_again(kind: type[ClientError], args: tuple[Any, ...], fields: Mapping[str, Any]) -> ClientError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error
