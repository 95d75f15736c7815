"""What Azure's failures mean for the one question that matters: was it written?"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import urllib3.exceptions
from azure.core.exceptions import AzureError, ClientAuthenticationError, ServiceRequestError, ServiceRequestTimeoutError
from azure.cosmos.exceptions import CosmosHttpResponseError

from datastore.errors import DatastoreError, Denied, OutcomeUnknown, Rejected, Throttled, Unavailable
from datastore.interface import OnTrouble, Trouble

Verdict = type[DatastoreError]

BY_STATUS: Final[Mapping[int, tuple[Verdict, Verdict]]] = {
    # status: (for a read, for a write). Any other: Unavailable, OutcomeUnknown.
    # Sources: the service's "HTTP status codes" page, and measurements behind a fault proxy.
    400: (Rejected, Rejected),
    # Who asks is looked at before what is asked: no write gets past that. It says nothing of the document either, and
    # holds for this process alone (a host without the rotated key) or for a while (a role or a rule on its way).
    401: (Denied, Denied),
    403: (Denied, Denied),  # the key or the role may not, a firewall
    404: (Denied, Denied),  # the database or container; a missing item is an answer, not a failure
    408: (Unavailable, OutcomeUnknown),  # ran out of time inside the service, the write may still land
    410: (Unavailable, OutcomeUnknown),  # a partition moved; nothing promises that the write did not land
    413: (Rejected, Rejected),  # above 2 MB
    429: (Throttled, Throttled),
    449: (Throttled, Throttled),  # lost an internal race before anything was written; the SDK does not retry it
    500: (Unavailable, OutcomeUnknown),
    503: (Unavailable, OutcomeUnknown),  # seen after an applied write
}

BY_SUB_STATUS: Final[Mapping[tuple[int, int], Verdict]] = {
    (403, 3): Unavailable,  # writes forbidden here: the write region is moving
    (403, 1008): Unavailable,  # the account is not known in this region (yet)
    (403, 1014): Unavailable,  # the partition is full: as a disk may be
    (404, 1002): Unavailable,  # the replica is behind this session: not "missing"
    (404, 1013): Unavailable,  # the container is still being created
}

RETRY_AFTER_MS: Final = 10
"""Where a 429 or 449 names no pause: the first back-off of Microsoft's .NET SDK for a 449."""

ADVICE: Final[Mapping[int, str]] = {
    401: "check BROKER_COSMOS_KEY, or this host's identity, and this host's clock",
    403: "check the account's firewall, the role of this host's identity, and this host's clock",
    404: "there is no such database or container: correct the URL, create it, or add create=1 to the URL",
}
"""What to do where the store does not let this process in."""
WITHOUT_IDENTITY: Final = "give this host a managed or workload identity, or set BROKER_COSMOS_KEY"

MESSAGE_CHARS_MAX: Final = 300


def is_missing_item(error: CosmosHttpResponseError) -> bool:
    """Whether a 404 speaks of the item, and not of its container or a replica that lags behind."""
    return error.status_code == 404 and not error.sub_status


def may_have_been_written(status: int) -> bool:
    """Whether an answer with this status can follow a write that was applied."""
    if status in (200, 201, 404, 409, 412):
        return False  # an answer, which the provider returns as a value
    return _verdict(status, None, write=True) is OutcomeUnknown


def never_sent(error: AzureError) -> bool:
    """Whether it is proved that no byte of the request left: there was no connection to send it on.

    A TLS failure can come in the middle of an exchange, and the SDK reports it just like a refused connection.
    """
    refused = isinstance(error.inner_exception, urllib3.exceptions.NewConnectionError)
    return isinstance(error, ServiceRequestTimeoutError) or (isinstance(error, ServiceRequestError) and refused)


@contextmanager
def translated(what: str, *, write: bool, on_trouble: OnTrouble | None = None) -> Iterator[None]:
    """Raises the SDK's failures of `what` as ours. `write` says whether something could have been written."""
    try:
        with _ours(what, write=write):
            yield
    except Denied as error:
        if on_trouble is not None:
            on_trouble(Trouble.DENIED, str(error))
        raise


@contextmanager
def _ours(what: str, *, write: bool) -> Iterator[None]:
    try:
        yield
    except AzureError as error:
        raise translate(error, what, write=write) from error
    except DatastoreError as error:
        error.args = (f"{what}: {error}",)  # raised below the SDK, where the item is not known
        raise
    except Exception as error:  # the SDK stumbles over JSON that is no answer of the service's
        raise translate(AzureError(repr(error)), what, write=write) from error


def translate(error: AzureError, what: str, *, write: bool) -> DatastoreError:
    """One of the SDK's failures as one of ours. Only for those that are not answers: see `is_missing_item`."""
    if isinstance(error, ClientAuthenticationError):
        # Asked for before a request is sent, or once the service has refused one: nothing was written.
        return Denied(f"{what}: no Entra token: {_message(error)}; {WITHOUT_IDENTITY}")
    if isinstance(error, CosmosHttpResponseError):
        status = error.status_code or 0
        return verdict(status, error.sub_status, error.headers, f"{what}: {_message(error)}", write=write)
    if not write or never_sent(error):
        return Unavailable(f"{what}: {_message(error)}")
    return OutcomeUnknown(f"{what}: {_message(error)}")


def verdict(
    status: int, sub_status: int | None, headers: Mapping[str, str], message: str, *, write: bool
) -> DatastoreError:
    """The failure that an HTTP status means; `headers` are the answer's."""
    chosen = _verdict(status, sub_status, write=write)
    if chosen is Throttled:
        return Throttled(message, retry_after_ms=_retry_after_ms(headers))
    return chosen(f"{message}; {ADVICE[status]}" if chosen is Denied else message)


def _verdict(status: int, sub_status: int | None, *, write: bool) -> Verdict:
    by_sub_status = BY_SUB_STATUS.get((status, sub_status or 0))
    if by_sub_status is not None:
        return by_sub_status
    for_read, for_write = BY_STATUS.get(status, (Unavailable, OutcomeUnknown))
    return for_write if write else for_read


def _retry_after_ms(headers: Mapping[str, str]) -> int:
    try:
        return max(1, int(float(headers["x-ms-retry-after-ms"])))
    except (KeyError, ValueError, OverflowError):
        return RETRY_AFTER_MS


def _message(error: AzureError) -> str:
    """The first words of the SDK's text: the rest is query metrics and activity ids."""
    return " ".join(str(error).split())[:MESSAGE_CHARS_MAX]
