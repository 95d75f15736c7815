"""What the operations carry that look at jobs, and that an operator makes on one."""

from typing import Annotated

from pydantic import Field, StringConstraints

from broker.documents import State
from broker.wire_types import PAGE_MAX, Body, JobId, QueueName


class JobIdBody(Body):
    job_id: JobId


class CancelBody(JobIdBody):
    reason: Annotated[str, StringConstraints(max_length=1_024)] | None = None


class RevokeBody(CancelBody):
    hold: bool = False


class ListBody(Body):
    state: State | None = None
    queue: QueueName | None = None
    limit: Annotated[int, Field(ge=1, le=PAGE_MAX)] = 100
    cursor: Annotated[str, StringConstraints(max_length=4_096)] | None = None
