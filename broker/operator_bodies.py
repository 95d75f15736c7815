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


class ListRunsBody(JobIdBody):
    limit: Annotated[int, Field(ge=1, le=PAGE_MAX)] = PAGE_MAX
    cursor: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,15}$")] | None = None
    """Runs before those of the page that gave it."""


class ListBody(Body):
    state: State | None = None
    queue: QueueName | None = None
    limit: Annotated[int, Field(ge=1, le=PAGE_MAX)] = 100
    cursor: Annotated[str, StringConstraints(max_length=4_096)] | None = None
