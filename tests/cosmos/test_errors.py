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
from azure.cosmos.exceptions import CosmosClientTimeoutError, CosmosHttpResponseError
from urllib3.connection import HTTPConnection

from datastore.cosmos_errors import MESSAGE_CHARS_MAX, RETRY_AFTER_MS, may_have_been_written, translate, verdict
from datastore.errors import DatastoreError, Denied, NotApplied, OutcomeUnknown, Rejected, Throttled, Unavailable


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


@pytest.mark.parametrize("status", [429, 449])
@pytest.mark.parametrize(
    ("said", "waits_ms"),
    [("17", 17), ("17.9", 17), ("0.2", 1), ("0", 1), (None, RETRY_AFTER_MS), ("soon", RETRY_AFTER_MS), ("inf", 10)],
)
def test_a_throttled_request_waits_as_long_as_it_is_told_and_never_not_at_all(
    status: int, said: str | None, waits_ms: int
) -> None:
    headers = {} if said is None else {"x-ms-retry-after-ms": said}
    error = verdict(status, None, headers, "replace 'job-1'", write=True)
    assert isinstance(error, Throttled)
    assert error.retry_after_ms == waits_ms
    assert str(error) == "replace 'job-1'"


@pytest.mark.parametrize("write", [True, False])
@pytest.mark.parametrize(
    ("status", "sub_status", "advice"),
    [
        (401, None, "BROKER_COSMOS_KEY"),
        (403, None, "firewall"),
        (403, 5300, "role"),
        (404, None, "create=1"),
        (404, 1003, "create=1"),
    ],
)
def test_who_is_not_let_in_has_written_nothing_and_is_told_what_to_do(
    status: int, sub_status: int | None, advice: str, write: bool
) -> None:
    error = verdict(status, sub_status, {}, "the service's words", write=write)
    assert type(error) is Denied
    assert isinstance(error, NotApplied), "nothing was written, and the same call may be tried again"
    words, _, step = str(error).rpartition("; ")
    assert words == "the service's words"
    assert advice in step


@pytest.mark.parametrize("status", [400, 413])
def test_what_the_call_itself_is_to_blame_for_is_rejected(status: int) -> None:
    error = verdict(status, None, {}, "the service's words", write=True)
    assert type(error) is Rejected
    assert str(error) == "the service's words"


@pytest.mark.parametrize(
    ("status", "sub_status"),
    [(403, 3), (403, 1008), (403, 1014), (404, 1002), (404, 1013), (418, None), (500, None), (599, 7)],
)
def test_a_read_that_may_succeed_elsewhere_or_later_is_unavailable(status: int, sub_status: int | None) -> None:
    error = verdict(status, sub_status, {}, "read 'job-1'", write=False)
    assert type(error) is Unavailable
    assert str(error) == "read 'job-1'"


@pytest.mark.parametrize("status", [200, 201, 404, 409, 412, 400, 401, 403, 413, 429, 449])
def test_an_answer_that_follows_no_applied_write_is_believed(status: int) -> None:
    assert not may_have_been_written(status)


@pytest.mark.parametrize("status", [204, 304, 307, 408, 410, 500, 502, 503, 418])
def test_an_answer_that_can_follow_an_applied_write_is_not_believed(status: int) -> None:
    assert may_have_been_written(status)


@pytest.mark.parametrize(("write", "verdict"), [(True, OutcomeUnknown), (False, Unavailable)])
def test_a_status_that_the_sdk_reports_means_for_a_write_what_it_means_in_the_transport(
    write: bool, verdict: type[DatastoreError]
) -> None:
    error = CosmosHttpResponseError(status_code=503, message="busy")  # type: ignore[no-untyped-call]
    assert type(translate(error, "replace 'job-1'", write=write)) is verdict


def test_the_sdks_text_is_cut_to_one_line() -> None:
    error = str(translate(AzureError("first\n  second\t" + "x" * 1_000), "find 'state'", write=False))
    assert error.startswith("find 'state': first second xxx")
    assert len(error) == len("find 'state': ") + MESSAGE_CHARS_MAX


def test_without_an_entra_token_the_call_is_not_let_in() -> None:
    error = translate(ClientAuthenticationError("no managed identity"), "create 'job-1'", write=True)
    assert type(error) is Denied
    assert str(error).startswith("create 'job-1': no Entra token: no managed identity; give this host")
