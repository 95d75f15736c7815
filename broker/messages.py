"""Requests as they travel: one envelope, discriminated by `op`, with its limits in the types."""

import json
import re
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import pydantic_core
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from broker.documents import PRIORITY_MAX, OnParentFailure, OnStuck, State

ENVELOPE_BYTES_MAX = 131_072
"""A payload of 64 KiB with all else a submission may carry."""
PAYLOAD_BYTES_MAX = 65_536
RESULT_BYTES_MAX = 16_384
"""A result or an error, UTF-8 (design §3)."""
PROGRESS_BYTES_MAX = 4_096
NESTING_MAX = 64
"""Levels of a payload or a result. Cosmos DB takes 128 for the whole document."""
WAIT_MS_MAX = 60_000
PAGE_MAX = 500


def _depth(value: JsonValue, levels: int) -> bool:
    """Whether `value` has at most `levels` levels."""
    if isinstance(value, dict):
        return levels > 0 and all(_depth(item, levels - 1) for item in value.values())
    if isinstance(value, list):
        return levels > 0 and all(_depth(item, levels - 1) for item in value)
    return True


class JsonAtMost:
    """Validates that a JSON value is at most `bytes_max` bytes of UTF-8, finite, and not nested too deep."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max

    def __call__(self, value: JsonValue) -> JsonValue:
        if not _depth(value, NESTING_MAX):
            raise ValueError(f"nested more than {NESTING_MAX} levels deep")
        size = len(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())
        if size > self._bytes_max:
            raise ValueError(f"{size} bytes of JSON; at most {self._bytes_max} are taken")
        return value


Payload = Annotated[JsonValue, AfterValidator(JsonAtMost(PAYLOAD_BYTES_MAX))]
Result = Annotated[JsonValue, AfterValidator(JsonAtMost(RESULT_BYTES_MAX))]

JobId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
"""Letters, digits, `.`, `_`, `-`. No `:`, which stands in the ids of specs and runs."""
FactoryId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
QueueName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
RequestId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""What rq allows in the id of an rq job."""
Token = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,128}$")]
"""Any printable text: a forged token is to be told `lease_lost`, whatever it looks like."""
Offer = Annotated[str, StringConstraints(pattern=r"^[^\s=<>!]{1,64}(=[^\x00-\x1f]{0,128})?$")]
"""What a factory has: `key` or `key=value`."""
Need = Annotated[str, StringConstraints(pattern=r"^[^\s=<>!]{1,64}((=|>=|<=|>|<)[^\x00-\x1f]{0,128})?$")]
"""What a job needs: `key`, `key=value`, or a comparison of numbers such as `mem_gb>=16`."""
LockKey = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f]+$")]
LabelName = Annotated[str, StringConstraints(min_length=1, max_length=64)]
LabelText = Annotated[str, StringConstraints(max_length=256)]
TtlMs = Annotated[int, Field(ge=1_000, le=86_400_000)]
Span = Annotated[int, Field(gt=0, le=31_536_000_000)]
"""Milliseconds, up to a year."""
Millis = Annotated[int, Field(ge=0, le=4_102_444_800_000)]
"""Unix milliseconds, up to the year 2100."""


class Body(BaseModel):
    """What an operation takes. Unknown fields are refused: a misspelt option must not be ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ClaimBody(Body):
    job_id: JobId | None = None
    """None: the next one that fits."""
    queue: QueueName = "default"
    offers: Annotated[tuple[Offer, ...], Field(max_length=64)] = ()
    ttl_ms: TtlMs | None = None
    """None: the job's, else the broker's."""
    wait_ms: Annotated[int, Field(ge=0, le=WAIT_MS_MAX)] = 0
    """How long a claim-next stays parked where nothing fits."""
    wait_until_ms: Millis | None = None
    """Set by the broker where it parks a claim, so that the wait is not begun anew. It can only shorten the wait."""
    expected_etag: Annotated[str, StringConstraints(max_length=256)] | None = None
    """Claim only this version of the job; otherwise `conflict {etag_mismatch}`."""


class FencedBody(Body):
    job_id: JobId
    epoch: Annotated[int, Field(ge=1)]
    token: Token = Field(repr=False)


class RenewBody(FencedBody):
    ttl_ms: TtlMs | None = None
    """None: as granted."""


class CompleteBody(FencedBody):
    result: Result = None


class FailBody(FencedBody):
    error: Annotated[str, StringConstraints(max_length=RESULT_BYTES_MAX)] = ""
    result: Result = None
    retryable: bool = True


class ReleaseBody(FencedBody):
    reason: Annotated[str, StringConstraints(max_length=1_024)] | None = None


class ProgressBody(FencedBody):
    progress: Annotated[JsonValue, AfterValidator(JsonAtMost(PROGRESS_BYTES_MAX))]


class Unique(Body):
    key: LockKey
    policy: Literal["reject", "replace", "join"] = "reject"
    """Where a live job has the key: refuse, cancel it if it waits, or answer with that job."""


class SubmitBody(Body):
    job_id: JobId | None = None
    """None: derived from the request id."""
    queue: QueueName = "default"
    priority: Annotated[int, Field(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] = 0
    requires: Annotated[tuple[Need, ...], Field(max_length=64)] = ()
    locks: Annotated[tuple[LockKey, ...], Field(max_length=64)] = ()
    depends_on: Annotated[tuple[JobId, ...], Field(max_length=256)] = ()
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
    """Jobs with this key that were submitted earlier and still wait are cancelled."""
    max_failures: Annotated[int, Field(ge=1, le=1_000)] = 3
    max_expiries: Annotated[int, Field(ge=1, le=1_000)] = 5
    labels: dict[LabelName, LabelText] = Field(default_factory=dict, max_length=64)
    payload: Payload = None


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


class Envelope(BaseModel):
    """What every request carries."""

    model_config = ConfigDict(frozen=True, extra="forbid")
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


class Complete(_Lease):
    op: Literal["complete"] = "complete"
    body: CompleteBody


class Fail(_Lease):
    op: Literal["fail"] = "fail"
    body: FailBody


class Release(_Lease):
    op: Literal["release"] = "release"
    body: ReleaseBody


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


class GetJob(_Job):
    op: Literal["get_job"] = "get_job"
    body: JobIdBody


class ListJobs(_Job):
    op: Literal["list_jobs"] = "list_jobs"
    body: ListBody


class ListRuns(_Job):
    op: Literal["list_runs"] = "list_runs"
    body: JobIdBody


Request: TypeAlias = (
    Claim
    | Renew
    | Complete
    | Fail
    | Release
    | Progress
    | Submit
    | Cancel
    | Redrive
    | Revoke
    | GetJob
    | ListJobs
    | ListRuns
)
FencedRequest: TypeAlias = Renew | Complete | Fail | Release | Progress
REQUESTS: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="op")])


class Malformed(Exception):
    """A request that can't be understood. `sender` holds what of its address could still be read, for a typed reply."""

    def __init__(self, message: str, *, sender: dict[str, Any]) -> None:
        super().__init__(message)
        self.sender = sender


def parse(raw: bytes | str) -> Request:
    """The request in a JSON text.

    Raises:
      Malformed: too long, not JSON, an unknown operation, or a field outside its limits. Nothing was done.
    """
    if len(raw) > ENVELOPE_BYTES_MAX:
        raise Malformed(f"an envelope of {len(raw)} bytes; at most {ENVELOPE_BYTES_MAX} are taken", sender={})
    try:
        return REQUESTS.validate_json(raw)
    except ValidationError as error:
        raise Malformed(_why(error), sender=_sender(raw)) from error


def _why(error: ValidationError) -> str:
    """The first few problems, without the values."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    whys = (f"{'.'.join(map(str, item['loc'])) or 'envelope'}: {item['msg']}" for item in problems[:5])
    return without_tokens("; ".join(whys))


_TOKEN_LIKE = re.compile(r'(\\*"token\\*"\s*:\s*\\*")[^"\\]*|[0-9A-Fa-f]{32,}')


def without_tokens(text: str) -> str:
    """`text` without what could be a token, wherever a sender has put it. To be used before any cut."""
    return _TOKEN_LIKE.sub(lambda found: f"{found[1] or ''}…", text)


class _Sender(BaseModel):
    """The address of a reply, where at least that much is well formed."""

    request_id: RequestId
    factory_id: FactoryId
    instance: FactoryId


def _sender(raw: bytes | str) -> dict[str, Any]:
    try:
        return _Sender.model_validate(pydantic_core.from_json(raw)).model_dump()
    except ValueError:
        return {}
