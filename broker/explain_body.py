"""What is asked of an explanation; apart from the other messages, whose module is long enough."""

from typing import Self

from pydantic import model_validator

from broker.wire_types import Body, FactoryId, JobId, Offers, QueueName


class ExplainBody(Body):
    """A job, a factory, or both: whether this factory could have this job."""

    job_id: JobId | None = None
    factory: FactoryId | None = None
    offers: Offers | None = None
    """What the factory offers. None: what its last claim did."""
    queue: QueueName | None = None
    """Whose ready jobs are looked at for a factory. None: those of the queues it asked for lately."""

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if self.job_id is None and self.factory is None:
            raise ValueError("give a job_id, a factory, or both")
        return self
