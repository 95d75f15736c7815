"""What the operations of a lease's holder carry: its fence, and what they do with it."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue, StringConstraints

from broker.wire_types import (
    PROGRESS_BYTES_MAX,
    RESULT_BYTES_MAX,
    Body,
    FactoryId,
    JobId,
    JsonAtMost,
    Result,
    Token,
    TtlMs,
    in_words,
)

RENEW_MAX = 256
"""Leases renewed with one message."""


EPOCH_MAX = 2**53 - 1
"""No job comes near it, and every JSON reader has it exactly. Events tell it with all its digits."""


class FencedBody(Body):
    job_id: JobId
    epoch: Annotated[int, Field(ge=1, le=EPOCH_MAX)]
    token: Token = Field(repr=False)


class RenewBody(FencedBody):
    ttl_ms: TtlMs | None = None
    """None: as granted."""


class RenewManyBody(Body):
    leases: Annotated[tuple[RenewBody, ...], Field(min_length=1, max_length=RENEW_MAX, fail_fast=True)]

    def names(self) -> int:
        return super().names() + sum([len(lease.__pydantic_fields_set__) for lease in self.leases])


class CompleteBody(FencedBody):
    result: Result = None


class FailBody(FencedBody):
    error: Annotated[str, StringConstraints(max_length=RESULT_BYTES_MAX)] = ""
    result: Result = None
    retryable: bool = True


class _GivenBackBody(FencedBody):
    reason: Annotated[str, StringConstraints(max_length=1_024)] | None = None


class ReleaseBody(_GivenBackBody):
    unread: Literal[True] | None = None
    """Set by the broker where nobody read the grant: only a lease that was granted to this instance, and was never
    renewed, ends by it."""


class HandOverBody(_GivenBackBody):
    to: FactoryId
    """For a while nobody but this factory gets the job."""


class ProgressBody(FencedBody):
    progress: Annotated[JsonValue, AfterValidator(JsonAtMost(PROGRESS_BYTES_MAX)), in_words(PROGRESS_BYTES_MAX)]
