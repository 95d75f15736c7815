"""What failures without an answer prove, for those that a proxy can't play."""

import socket
import ssl

import pytest
import requests
import urllib3.exceptions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    DecodeError,
    ServiceRequestError,
    ServiceRequestTimeoutError,
    ServiceResponseError,
)
from azure.cosmos.exceptions import CosmosClientTimeoutError
from urllib3.connection import HTTPConnection

from datastore.cosmos_errors import translate
from datastore.errors import DatastoreError, OutcomeUnknown, Rejected, Unavailable


def service_request_error(cause: Exception) -> AzureError:
    """As azure-core raises it for whatever it takes for a request that never left."""
    return ServiceRequestError(str(cause), error=cause)


CONNECTION = HTTPConnection("x")
NEVER_SENT = (
    service_request_error(urllib3.exceptions.NewConnectionError(CONNECTION, "refused")),
    service_request_error(urllib3.exceptions.NameResolutionError("x", CONNECTION, socket.gaierror())),
    ServiceRequestTimeoutError("connect timed out"),
)
MAYBE_SENT = (
    service_request_error(requests.exceptions.SSLError(ssl.SSLEOFError("in the middle of an exchange"))),
    service_request_error(requests.exceptions.ConnectionError("of a kind not known yet")),
    ServiceResponseError("no answer"),
    CosmosClientTimeoutError(),  # type: ignore[no-untyped-call]  # the SDK leaves it untyped
    DecodeError("a 201 whose body is cut"),
    AzureError("of a kind not known yet"),
)


def name(error: Exception) -> str:
    return f"{type(error).__name__} {str(error)[:20]}"


@pytest.mark.parametrize("write", [True, False])
@pytest.mark.parametrize("error", NEVER_SENT, ids=name)
def test_without_a_connection_nothing_was_written(error: AzureError, write: bool) -> None:
    assert type(translate(error, "replace 'job-1'", write=write)) is Unavailable


@pytest.mark.parametrize(("write", "verdict"), [(True, OutcomeUnknown), (False, Unavailable)])
@pytest.mark.parametrize("error", MAYBE_SENT, ids=name)
def test_on_a_connection_that_was_there_a_write_may_have_landed(
    error: AzureError, write: bool, verdict: type[DatastoreError]
) -> None:
    assert type(translate(error, "replace 'job-1'", write=write)) is verdict


def test_without_an_entra_token_the_call_is_rejected() -> None:
    error = translate(ClientAuthenticationError("no managed identity"), "create 'job-1'", write=True)
    assert isinstance(error, Rejected)
    assert "no Entra token" in str(error)
