"""What is said of a job to be submitted, as it travels: the same in a call of its own and as one of many."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from broker.client.errors import InvalidRequest
from broker.client.wording import body_fields, listed
from broker.messages import SubmitBody

Submission: TypeAlias = SubmitBody | Mapping[str, Any]
"""One job of many: the arguments of `submit` by their names, or a body that was validated before."""

_LISTS = frozenset({"requires", "locks", "concurrency", "depends_on"})
_ALWAYS_SAID = frozenset({"payload", "queue", "priority"})
"""None is a payload; of a queue or a priority it is a mistake. Of anything else it says nothing."""
_OF_THE_CALL = {
    "timeout_ms": "it bounds the call, so it stands beside the jobs; a job's own deadline is deadline_in_ms",
    "request_id": "give request_ids beside the jobs, one for each",
}


def submission(given: Mapping[str, Any]) -> dict[str, Any]:
    """The body for these arguments of `submit`.

    Raises:
      InvalidRequest: what should be a list is none. Everything else is for whoever validates the body.
    """
    body: dict[str, Any] = {}
    for name, value in given.items():
        if name in _LISTS:
            body[name] = listed(name, value)
        elif value is not None or name in _ALWAYS_SAID:
            body[name] = value
    if "deadline_in_ms" in body:
        body["timeout_ms"] = body.pop("deadline_in_ms")
    if isinstance(unique := body.get("unique"), str):
        body["unique"] = {"key": unique}
    return body


def one_of_many(index: int, given: Submission) -> dict[str, Any]:
    """The body of one of several jobs.

    Raises:
      InvalidRequest: it is no job, or says something of the call. `index` is in the message.
    """
    if isinstance(given, SubmitBody):
        return body_fields(given)
    if not isinstance(given, Mapping):
        raise of_many(index, "a mapping of the arguments of `submit` is expected")
    for name, instead in _OF_THE_CALL.items():
        if name in given:
            raise of_many(index, f"{name}: {instead}")
    try:
        return submission(given)
    except InvalidRequest as error:
        raise of_many(index, str(error)) from None


def of_many(index: int, problem: str) -> InvalidRequest:
    """The failure to raise where one of several jobs is invalid."""
    return InvalidRequest(f"bodies[{index}]: {problem}")


def name_of(given: Submission) -> Any:
    """The job's id as its submitter gave it; None where the broker makes one."""
    return given.job_id if isinstance(given, SubmitBody) else given.get("job_id")
