"""What the operations on limits and queues carry."""

from typing import Annotated

from pydantic import Field, StringConstraints

from broker.wire_types import Body, LimitName, QueueName


class RateBody(Body):
    count: Annotated[int, Field(ge=1, le=1_000)]
    """What is kept of each grant bounds it: a higher rate takes a shorter window."""
    per_ms: Annotated[int, Field(ge=100, le=86_400_000)]


class LimitBody(Body):
    limit: LimitName


class SetLimitBody(LimitBody):
    """What is left out stays as it is; null ends that half of the limit."""

    capacity: Annotated[int, Field(ge=0, le=1_000)] | None = None
    rate: RateBody | None = None


class QueueBody(Body):
    queue: QueueName


class PauseQueueBody(QueueBody):
    reason: Annotated[str, StringConstraints(max_length=1_024)] | None = None
