"""Requests as they travel: one envelope, discriminated by `op`, with its limits in the types."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar, Literal, Self, TypeAlias, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, model_validator

from broker import cron
from broker.documents import PRIORITY_MAX, OnParentFailure, OnStuck
from broker.explain_body import ExplainBody
from broker.factory_bodies import DrainBody, FactoryBody, ListFactoriesBody, RegisterBody, RemoveBody
from broker.lease_bodies import (
    CompleteBody,
    FailBody,
    HandOverBody,
    ProgressBody,
    ReleaseBody,
    RenewBody,
    RenewManyBody,
)
from broker.limit_bodies import LimitBody, PauseQueueBody, QueueBody, SetLimitBody
from broker.operator_bodies import CancelBody, JobIdBody, ListBody, ListRunsBody, RevokeBody
from broker.slots import within_slots
from broker.wire_types import (
    PAGE_MAX,
    WAIT_MS_MAX,
    Body,
    ConcurrencyKey,
    FactoryId,
    FairnessKey,
    JobId,
    LabelName,
    LabelText,
    LockKey,
    Millis,
    Needs,
    Offers,
    Payload,
    Preferences,
    QueueName,
    RequestId,
    Span,
    TtlMs,
)

ENVELOPE_BYTES_MAX = 131_072
"""A payload of 64 KiB with as much again: not all that a submission may carry is as long as it may be at once."""
BODY_BYTES_MAX = ENVELOPE_BYTES_MAX - 1_024
"""What stands around it takes less."""
CLAIM_COUNT_MAX = 64


class ClaimBody(Body):
    job_id: JobId | None = None
    """None: the next one that fits."""
    count: Annotated[int, Field(ge=1, le=CLAIM_COUNT_MAX)] | None = None
    """A claim without `job_id` for up to so many jobs; its answer holds `grants`. None: one job, which is the answer
    itself."""
    queue: QueueName = "default"
    offers: Offers = ()
    ttl_ms: TtlMs | None = None
    """None: the job's, else the broker's."""
    wait_ms: Annotated[int, Field(ge=0, le=WAIT_MS_MAX)] = 0
    """How long a claim without `job_id` waits where nothing fits."""
    wait_until_ms: Millis | None = None
    """Set by the broker where it parks a claim, so that the wait is not begun anew. It can only shorten the wait."""
    expected_etag: Annotated[str, StringConstraints(max_length=256)] | None = None
    """Claim only this version of the job; otherwise `conflict {etag_mismatch}`."""

    @model_validator(mode="after")
    def _count_or_job(self) -> Self:
        if self.count is not None and self.job_id is not None:
            raise ValueError("count is for a claim without job_id")
        return self

    @classmethod
    def tied(cls) -> frozenset[str]:
        """One claimed job is the usual thing, and needs no more than its own type."""
        return frozenset({"count"})


class Unique(Body):
    key: LockKey
    policy: Literal["reject", "replace", "join"] = "reject"
    """Where a live job has the key: refuse, cancel it if it waits, or answer with that job."""


class SubmitBody(Body):
    job_id: JobId | None = None
    """None: derived from the request id."""
    queue: QueueName = "default"
    priority: Annotated[int, Field(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] = 0
    requires: Needs = ()
    prefers: Preferences = Field(default_factory=dict)
    fairness_key: FairnessKey | None = None
    locks: Annotated[tuple[LockKey, ...], Field(max_length=64, fail_fast=True), AfterValidator(within_slots)] = ()
    """Together at most 256 slots: one for each name, and one for each folder above it."""
    concurrency: Annotated[tuple[ConcurrencyKey, ...], Field(max_length=16, fail_fast=True)] = ()
    """Keys that share a limit wherever an operator sets one."""
    depends_on: Annotated[tuple[JobId, ...], Field(max_length=256, fail_fast=True)] = ()
    not_before_ms: Millis | None = None
    timeout_ms: Span | None = None
    """The whole job's deadline, counted from its submission."""
    ttl_ms: TtlMs | None = None
    run_timeout_ms: Span | None = None
    """The deadline of each run, counted from its grant."""
    stuck_after_ms: Span | None = None
    """A run that reports no progress for this long is stuck, though it renews."""
    on_stuck: OnStuck = OnStuck.FLAG
    on_parent_failure: OnParentFailure = OnParentFailure.BLOCK
    unique: Unique | None = None
    supersedes: LockKey | None = None
    """Jobs with this key that were submitted earlier are cancelled if they wait, now or once their lease ends."""
    max_failures: Annotated[int, Field(ge=1, le=1_000)] = 3
    max_expiries: Annotated[int, Field(ge=1, le=1_000)] = 5
    labels: dict[LabelName, LabelText] = Field(default_factory=dict, max_length=64)
    payload: Payload = None


class CatchUp(StrEnum):
    """Which of the fires that an outage swallowed are made up for."""

    NONE = "none"
    LAST = "last"
    ALL = "all"


class PutScheduleBody(Body):
    name: QueueName
    cron: Annotated[str, StringConstraints(max_length=256)]
    """Minute, hour, day, month, weekday, by the clock of `tz`."""
    tz: Annotated[str, StringConstraints(max_length=64)] | None = None
    """Without it, and without `catch_up`, what is replaced keeps its own; what is new has `UTC` and `last`."""
    catch_up: CatchUp | None = None
    job: SubmitBody
    """What each fire submits. No `job_id`, no `not_before_ms`: its id is made of the schedule's name and the time."""
    replace: bool = False

    @model_validator(mode="after")
    def _fires(self) -> Self:
        cron.check(self.cron, self.tz or cron.ZONE)
        if self.job.job_id is not None or self.job.not_before_ms is not None:
            raise ValueError("a schedule names its jobs and says when: remove `id` and `not_before` from the job")
        return self


class ChangeScheduleBody(Body):
    name: QueueName
    to: Literal["active", "paused", "removed"]


class ListSchedulesBody(Body):
    name: QueueName | None = None
    limit: Annotated[int, Field(ge=1, le=PAGE_MAX)] = 100
    cursor: Annotated[str, StringConstraints(max_length=4_096)] | None = None


class Envelope(BaseModel):
    """What every request carries."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
    queue_name: ClassVar[str]
    """The Redis queue this operation is served from."""

    v: Literal[1] = 1
    request_id: RequestId
    attempt: Annotated[int, Field(ge=1, le=1_000)] = 1
    factory_id: FactoryId
    incarnation: FactoryId
    """One start of the factory."""
    instance: FactoryId
    """One client; names the reply channel together with the factory."""
    deadline_ms: Millis | None = None
    """Broker time after which the request is dropped. None: its wait in the queue is not bounded."""
    traceparent: Annotated[str, StringConstraints(max_length=128)] | None = None


class _Lease(Envelope):
    queue_name = "leases"


class _Claim(Envelope):
    queue_name = "claims"


class _Job(Envelope):
    queue_name = "jobs"


class Renew(_Lease):
    op: Literal["renew"] = "renew"
    body: RenewBody


class RenewMany(_Lease):
    op: Literal["renew_many"] = "renew_many"
    body: RenewManyBody


class Complete(_Lease):
    op: Literal["complete"] = "complete"
    body: CompleteBody


class Fail(_Lease):
    op: Literal["fail"] = "fail"
    body: FailBody


class Release(_Lease):
    op: Literal["release"] = "release"
    body: ReleaseBody


class HandOver(_Lease):
    op: Literal["hand_over"] = "hand_over"
    body: HandOverBody


class Progress(_Lease):
    op: Literal["progress"] = "progress"
    body: ProgressBody


class Claim(_Claim):
    op: Literal["claim"] = "claim"
    body: ClaimBody


class Submit(_Job):
    op: Literal["submit"] = "submit"
    body: SubmitBody


class Cancel(_Job):
    op: Literal["cancel"] = "cancel"
    body: CancelBody


class Redrive(_Job):
    op: Literal["redrive"] = "redrive"
    body: JobIdBody


class Revoke(_Job):
    op: Literal["revoke"] = "revoke"
    body: RevokeBody


class Hold(_Job):
    op: Literal["hold"] = "hold"
    body: CancelBody


class Lift(_Job):
    op: Literal["lift"] = "lift"
    body: JobIdBody


class SetLimit(_Job):
    op: Literal["set_limit"] = "set_limit"
    body: SetLimitBody


class RemoveLimit(_Job):
    op: Literal["remove_limit"] = "remove_limit"
    body: LimitBody


class ListLimits(_Job):
    op: Literal["list_limits"] = "list_limits"
    body: Body = Body()


class PauseQueue(_Job):
    op: Literal["pause_queue"] = "pause_queue"
    body: PauseQueueBody


class ResumeQueue(_Job):
    op: Literal["resume_queue"] = "resume_queue"
    body: QueueBody


class ListQueues(_Job):
    op: Literal["list_queues"] = "list_queues"
    body: Body = Body()


class GetJob(_Job):
    op: Literal["get_job"] = "get_job"
    body: JobIdBody


class ListJobs(_Job):
    op: Literal["list_jobs"] = "list_jobs"
    body: ListBody


class ListRuns(_Job):
    op: Literal["list_runs"] = "list_runs"
    body: ListRunsBody


class PutSchedule(_Job):
    op: Literal["put_schedule"] = "put_schedule"
    body: PutScheduleBody


class ChangeSchedule(_Job):
    op: Literal["change_schedule"] = "change_schedule"
    body: ChangeScheduleBody


class ListSchedules(_Job):
    op: Literal["list_schedules"] = "list_schedules"
    body: ListSchedulesBody


class Explain(_Job):
    op: Literal["explain"] = "explain"
    body: ExplainBody


class RegisterFactory(_Job):
    """The sender registers itself, under the incarnation of its envelope."""

    op: Literal["register_factory"] = "register_factory"
    body: RegisterBody


class DrainFactory(_Job):
    op: Literal["drain_factory"] = "drain_factory"
    body: DrainBody


class ResumeFactory(_Job):
    op: Literal["resume_factory"] = "resume_factory"
    body: FactoryBody


class RemoveFactory(_Job):
    op: Literal["remove_factory"] = "remove_factory"
    body: RemoveBody


class GetFactory(_Job):
    op: Literal["get_factory"] = "get_factory"
    body: FactoryBody


class ListFactories(_Job):
    op: Literal["list_factories"] = "list_factories"
    body: ListFactoriesBody


Request: TypeAlias = (
    Claim
    | Renew
    | RenewMany
    | Complete
    | Fail
    | Release
    | Progress
    | Submit
    | Cancel
    | Redrive
    | Revoke
    | Hold
    | Lift
    | SetLimit
    | RemoveLimit
    | ListLimits
    | PauseQueue
    | ResumeQueue
    | ListQueues
    | GetJob
    | ListJobs
    | ListRuns
    | PutSchedule
    | ChangeSchedule
    | ListSchedules
    | Explain
    | HandOver
    | RegisterFactory
    | DrainFactory
    | ResumeFactory
    | RemoveFactory
    | GetFactory
    | ListFactories
)
FencedRequest: TypeAlias = Renew | Complete | Fail | Release | HandOver | Progress
KINDS: Mapping[bytes, type[Request]] = {kind.model_fields["op"].default.encode(): kind for kind in get_args(Request)}
"""Each kind by its operation as it travels. None is built before the first request of it comes."""
REQUESTS: TypeAdapter[Request] = TypeAdapter(
    Annotated[Request, Field(discriminator="op")],
    config=ConfigDict(defer_build=True),  # all kinds at once: nothing that a start has to wait for
)
