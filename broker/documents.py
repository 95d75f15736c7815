"""What the broker keeps in the datastore: the job and its lease, the immutable spec, and one run for each epoch."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Final, Self, TypeVar, cast

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import force_setattr, replace

from datastore import Corrupt, Document
from datastore.frozen import freeze, frozen_fields
from datastore.json_body import decoded

Kind = TypeVar("Kind", bound=Struct)
Count = Annotated[int, Meta(ge=0)]
Epoch = Annotated[int, Meta(ge=1)]
Ms = Annotated[int, Meta(ge=0)]
"""Broker time, Unix milliseconds, or a span of milliseconds."""
Scored = Annotated[int, Meta(ge=-(1 << 53), le=1 << 53)]
"""What the place of a job in the ready index is worked out of: Redis takes no score beyond a float."""

RECENT_REQUESTS_MAX = 8
"""Request ids a job remembers beside its lease (design §3)."""
CLAIM = "claim"
"""The op of a remembered claim. It is noted when the next lease is granted; until then `last_end` knows it."""
PRIORITY_MAX = 1000
"""Priorities run from -1000 to 1000; a higher one is served first."""


class Frozen(Struct, frozen=True, kw_only=True):
    """An immutable value of the store. Fields of a newer version are ignored here and stay there: patches are shallow.

    msgspec, not pydantic: these are our own documents, parsed three times a claim (docs/decisions/0008).
    """

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values


class State(StrEnum):
    """Where a job stands (design §4). `held` is an operator's flag beside the state."""

    BLOCKED = "blocked"
    SCHEDULED = "scheduled"
    READY = "ready"
    LEASED = "leased"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Only redrive leaves a terminal state."""
        return self in TERMINAL


READY: Final = State.READY
LEASED: Final = State.LEASED
BLOCKED: Final = State.BLOCKED
"""Names of their own for what every request looks at several times (docs/decisions/0039)."""
TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
WAITING = frozenset({State.BLOCKED, State.SCHEDULED, State.READY})


class Outcome(StrEnum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    EXPIRED = "expired"
    RELEASED = "released"
    REVOKED = "revoked"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    """Ended by a later epoch, and how is no longer known: two crashes in a row left only the fact."""


class OnParentFailure(StrEnum):
    """What becomes of a blocked job one of whose parents has failed or was cancelled."""

    BLOCK = "block"
    """It stays blocked until the parent is redriven and succeeds."""
    CANCEL = "cancel"
    IGNORE = "ignore"
    """It runs once all its parents have ended, however they did."""


class OnStuck(StrEnum):
    """What becomes of a run that renews, but makes no progress."""

    FLAG = "flag"
    REVOKE = "revoke"
    """It ends, and counts as a failure."""


class Counters(Frozen, frozen=True, kw_only=True):
    """Counted apart on purpose: an expired lease must not burn a user's retries, and must still be capped."""

    failures: Count = 0
    expiries: Count = 0
    releases: Count = 0


class Lease(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """The right to run a job at one epoch. It is written at every grant and renewal: what is not said stays away."""

    factory_id: str
    incarnation: str
    epoch: Epoch
    """Fencing token: one higher at each grant, never reset, survives release."""
    token: str
    """128 random bits, hex. Known to the holder alone; compared in constant time."""
    request_id: str
    granted_ms: Ms
    expires_ms: Ms
    """Broker time (Redis TIME), Unix milliseconds."""
    ttl_ms: Annotated[int, Meta(gt=0)]
    renewals: Count = 0
    run_deadline_ms: Ms | None = None
    """When this run is over, however often it renews. None: it may take as long as it renews."""
    stuck_ms: Ms | None = None
    """Since when it renews without making progress. None: it makes some, or nobody asked."""
    limits: tuple[str, ...] = ()
    """Limits of which this lease holds a unit, to be given back with it."""
    instance: str | None = None
    """The holder's client, which is told at once where the job is to be cancelled. None: it is told by its renewal."""
    asked_again: bool = False
    """This client has sent its claim once more and was told again: what it left unread before says nothing."""


class RunEnd(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """The end of the last run, kept in the job so that the run record can be rebuilt after a crash."""

    epoch: int
    factory_id: str
    incarnation: str
    request_id: str
    started_ms: int
    ended_ms: int
    outcome: Outcome
    renewals: int = 0
    """How often the lease was renewed; kept here because the lease is gone."""
    result: Any = None
    error: str | None = None
    handed_to: str | None = None


class Recent(Frozen, frozen=True, kw_only=True):
    """An operation this job has already carried out. A resend of it is answered, not repeated (I6)."""

    request_id: str
    op: str
    epoch: int
    state: State
    factory_id: str = ""
    """Whose request id it is: that of another factory is another request. Empty: not known, and everybody's."""

    def is_of(self, request_id: str, factory_id: str) -> bool:
        """Whether this is what this factory asked under this id."""
        return self.request_id == request_id and self.factory_id in ("", factory_id)


class CancelRequest(Frozen, frozen=True, kw_only=True):
    """A holder is asked to stop; enforced once the grace is over."""

    reason: str | None = None
    asked_ms: int
    enforce_ms: int


class Reservation(Frozen, frozen=True, kw_only=True):
    """A holder gave the job to another factory: for a while nobody else gets it."""

    factory_id: str
    by: str
    """The factory that handed it over."""
    until_ms: Scored


class Hold(Frozen, frozen=True, kw_only=True):
    """An operator's hold: the job is not granted until it is lifted."""

    reason: str | None = None
    since_ms: int


class Job(Frozen, frozen=True, kw_only=True):
    """Small and mutable: the one unit of compare-and-set. Built from a stored version with `from_document`."""

    id: str = ""
    """Which is its partition key too."""
    document: Any = None
    """The stored version (`Document`) this job was read from. Neither this nor the id is part of the stored body."""
    queue: str
    state: State
    priority: Scored = 0
    requires: tuple[str, ...] = ()
    prefers: tuple[tuple[str, int], ...] = ()
    """Terms like those of `requires`, with weights: who meets them is preferred; nobody has to."""
    fairness_key: str | None = None
    """Whose turn it is: jobs of equal priority are served key by key. None: the job stands for itself."""
    locks: tuple[str, ...] = ()
    concurrency: tuple[str, ...] = ()
    """Keys that share a limit wherever an operator sets one: `key:gpu`."""
    depends_on: tuple[str, ...] = ()
    not_before_ms: int | None = None
    deadline_ms: int | None = None
    timeout_ms: int | None = None
    """What `deadline_ms` was made of; redrive starts it anew."""
    ttl_ms: int | None = None
    run_timeout_ms: int | None = None
    """The deadline of each run, counted from its grant."""
    stuck_after_ms: int | None = None
    """A run that reports no progress for this long is stuck, though it renews."""
    on_stuck: OnStuck = OnStuck.FLAG
    on_parent_failure: OnParentFailure = OnParentFailure.BLOCK
    unique: str | None = None
    """Of all jobs with this key one at most is not terminal."""
    supersedes: str | None = None
    """A newer job with this key has cancelled the older ones that waited."""
    max_failures: int = 3
    max_expiries: int = 5
    counters: Counters = Counters()
    epoch: Count = 0
    lease: Lease | None = None
    cancel: CancelRequest | None = None
    hold: Hold | None = None
    reserved: Reservation | None = None
    last_end: RunEnd | None = None
    why: str | None = None
    """Why it ended, where no run of it says so."""
    recent_requests: tuple[Recent, ...] = ()
    created_ms: Scored = 0
    ready_ms: Scored | None = None
    """Since when it waits, where that is not since its submission: when it came due, or was redriven."""
    updated_ms: int = 0
    last_run_id: str | None = None
    superseded_by: str | None = None
    """A newer job of the same key came while this one ran, or was over: it does not wait again, but for a redrive."""
    gave_way_to: str | None = None
    """The newer job it was last superseded by. Stays when it is redriven: a late copy of that submission spares it."""

    @classmethod
    def from_document(cls, document: Document) -> Self:
        """The job in a stored version.

        Raises:
          Corrupt: the document is not a job, or breaks I2. It is left as it is.
        """
        job = _convert(document, cls)
        force_setattr(job, "id", document.id)  # nobody else has seen it yet
        force_setattr(job, "document", document)
        job._check_lease()
        return job

    def written(self, changes: Mapping[str, Any], document: Document) -> Self:
        """The job in `document`, which is this one with a rule's `changes`: known, so that it need not be parsed.

        Raises:
          Corrupt: as `from_document`.
        """
        followed = document.rev == self.document.rev + 1
        if not (followed and _FIELDS.issuperset(changes)):  # more than these changes, or more than a job says
            return self.from_document(document)
        job = replace(self, document=document, **changes)
        job._check_lease()
        return job

    def _check_lease(self) -> None:
        if (self.lease is not None) != (self.state is LEASED):
            raise Corrupt(f"{self.id!r} is {self.state} and {'has' if self.lease else 'lacks'} a lease")

    def recent(self, request_id: str, factory_id: str) -> Recent | None:
        """What this factory's request already did here, or None. Claims are told apart: see `claimed_before`."""
        return self._remembered(request_id, factory_id, claim=False)

    def claimed_before(self, request_id: str, factory_id: str) -> bool:
        """Whether this factory's request was granted an earlier lease, which is over."""
        end = self.last_end
        if end is not None and (end.request_id, end.factory_id) == (request_id, factory_id):
            return True
        return bool(self.recent_requests) and self._remembered(request_id, factory_id, claim=True) is not None

    def _remembered(self, request_id: str, factory_id: str, *, claim: bool) -> Recent | None:
        for entry in self.recent_requests:
            if (entry.op == CLAIM) is claim and entry.is_of(request_id, factory_id):
                return entry
        return None


class Spec(Frozen, frozen=True, kw_only=True):
    """What was submitted, never rewritten: claims and renewals leave the payload alone.

    It holds the whole submission, so that a submission cut off between the two writes can be
    finished by whoever meets it next.
    """

    job_id: str
    request_id: str
    payload: Any = None
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    submitted_by: str = ""
    created_ms: int = 0
    job: dict[str, Any] = msgspec.field(default_factory=dict)
    """The first version of the job document."""

    @classmethod
    def from_document(cls, document: Document) -> Self:
        """The spec in a stored document.

        Raises:
          Corrupt: the document is not a spec.
        """
        return _convert(document, cls)


class Run(Frozen, frozen=True, kw_only=True):
    """One holder's try, derived from its job. Created at its end or its first progress, always before the job's next
    epoch (decision 0038).
    """

    job_id: str
    epoch: int
    factory_id: str
    incarnation: str
    request_id: str
    started_ms: int
    ended_ms: int | None = None
    outcome: Outcome | None = None
    renewals: int = 0
    """Of a run that has ended; until then the lease counts."""
    result: Any = None
    error: str | None = None
    handed_to: str | None = None
    """The factory that this holder handed the job over to."""
    progress: Any = None
    progress_ms: int | None = None

    @classmethod
    def from_document(cls, document: Document) -> Self:
        """The run in a stored document.

        Raises:
          Corrupt: the document is not a run.
        """
        return _convert(document, cls)


def _convert(document: Document, kind: type[Kind]) -> Kind:
    try:
        return decoded(document.body, kind)
    except msgspec.DecodeError as error:
        raise Corrupt(f"{document.id!r} is not a {kind.__name__.lower()}: {error}") from error


_FIELDS = frozenset(Job.__struct_fields__)


def as_stored(changes: Mapping[str, Any]) -> dict[str, Any]:
    """A rule's changes, which are values of a job, as JSON values."""
    plain: dict[str, Any] = msgspec.to_builtins(changes)
    lease = plain.get("lease")
    if lease is not None and "limits" not in lease:  # written most often, and flat
        plain["lease"] = frozen_fields(lease)
    return plain


def leasing_as_stored(changes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Changes that are a lease, earlier requests and flat values, as JSON values that are ready to be stored."""
    plain: list[dict[str, Any]] = msgspec.to_builtins(changes)
    for each in plain:
        lease = each["lease"]
        each["lease"] = freeze(lease) if "limits" in lease else frozen_fields(lease)
        if "recent_requests" in each:  # of a job that was held before
            each["recent_requests"] = freeze(each["recent_requests"])
    return plain


@cache
def left_out(kind: type[Frozen]) -> Mapping[str, Any]:
    """What a stored value of `kind` means by the fields that it does not have, as JSON values."""
    defaults = {
        each.name: each.default for each in msgspec.structs.fields(kind) if each.default is not msgspec.NODEFAULT
    }
    return cast(dict[str, Any], msgspec.to_builtins(defaults))


def spec_id(job_id: str) -> str:
    """The id of a job's spec, in the job's partition."""
    return f"{job_id}:spec"


def run_id(job_id: str, epoch: int) -> str:
    """The id of the run at `epoch`, in the job's partition."""
    return f"{job_id}:run:{epoch}"
