"""What Azure's failures mean for the one question that matters: was it written?"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import urllib3.exceptions
from azure.core.exceptions import AzureError, ClientAuthenticationError, ServiceRequestError, ServiceRequestTimeoutError
from azure.cosmos.exceptions import CosmosHttpResponseError

from datastore.errors import DatastoreError, OutcomeUnknown, Rejected, Throttled, Unavailable

Verdict = type[DatastoreError]

BY_STATUS: Final[Mapping[int, tuple[Verdict, Verdict]]] = {
    # status: (for a read, for a write). Any other: Unavailable, OutcomeUnknown.
    # Sources: the service's "HTTP status codes" page, and measurements behind a fault proxy.
    400: (Rejected, Rejected),
    401: (Rejected, Rejected),
    403: (Rejected, Rejected),  # the key may not, a firewall, or a full partition
    404: (Rejected, Rejected),  # the database or container; a missing item is an answer, not a failure
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
    (404, 1002): Unavailable,  # the replica is behind this session: not "missing"
    (404, 1013): Unavailable,  # the container is still being created
}

RETRY_AFTER_MS: Final = 10
"""Where a 429 or 449 names no pause: the first back-off of Microsoft's .NET SDK for a 449."""

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
def translated(what: str, *, write: bool) -> Iterator[None]:
    """Raises the SDK's failures of `what` as ours. `write` says whether something could have been written."""
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
        return Rejected(f"{what}: no Entra token: {_message(error)}")
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
    if status == 401:
        message = f"wrong key or token, check BROKER_COSMOS_KEY: {message}"
    elif status == 404 and chosen is Rejected:
        message = f"no such database or container, create it first or add create=1 to the URL: {message}"
    return chosen(message)


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
