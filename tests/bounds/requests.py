"""Requests as texts, made by the hundred thousand."""

import json
from itertools import count
from typing import Final

_NUMBERS: Final = count()


def request(op: str, instance: str, **body: object) -> str:
    """One request with an id of its own."""
    address = {"factory_id": "f", "incarnation": "i", "instance": instance}
    return json.dumps({"op": op, "request_id": f"{op}-{next(_NUMBERS)}", "attempt": 1, **address, "body": body})


def submit(job: str, instance: str) -> str:
    """A job with a small payload."""
    return request("submit", instance, job_id=job, payload={"n": 1})


def claim(job: str, instance: str) -> str:
    """A claim of one job."""
    return request("claim", instance, job_id=job)


def claim_next(instance: str) -> str:
    """A claim of whatever there is."""
    return request("claim", instance)


def fenced(op: str, job: str, epoch: int, token: str, instance: str) -> str:
    """A holder's request."""
    return request(op, instance, job_id=job, epoch=epoch, token=token)
