"""One line of a history: what a client asked for, or what it learned of it.

A call is written down twice: `invoke` before anything is sent, and one line for each job its answer speaks of:
`ok`, `refused` or `unknown`. A call without a second line is unknown too: its client was killed, or gave up.
"""

from typing import Annotated, Literal, TypeAlias, get_args

from msgspec import UNSET, Meta, Struct, UnsetType

VERSION = 1

Kind = Literal["start", "invoke", "ok", "refused", "unknown"]
"""`start`: a client begins. `ok`: the request has had its effect, now or earlier. `refused`: the broker says that
this copy of it had none. `unknown`: it may have had its effect, or may still have it."""
KINDS: tuple[Kind, ...] = get_args(Kind)


Time: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
"""Nanoseconds of a steady clock. What lies beyond would be taken for always, or for never."""
Epoch: TypeAlias = Annotated[int, Meta(ge=0)]
"""As high as a caller likes to claim."""


class Record(Struct, omit_defaults=True, kw_only=True, gc=False):
    """One line. Its fields are few and flat, so that a million of them are read in seconds."""

    type: Kind
    at: Time
    """When it was written: this machine's steady clock, nanoseconds; one clock for all processes of a machine."""
    client: str
    """One client object; unique."""
    call: int = 0
    """Which call of this client."""
    op: str = ""
    request: str = ""
    factory: str = ""
    incarnation: str = ""
    job: str | None = None
    sent: Time | None = None
    """`at` of the call's `invoke`."""
    epoch: Epoch | None = None
    """The epoch that was granted, that the caller claims to hold, or at which an operator's request took effect."""
    token: str | None = None
    """A hash of the lease's token; never the token."""
    answer: str = ""
    reason: str | None = None
    state: str | None = None
    """Of the job: after the effect for an `ok`, as the broker saw it for anything else."""
    seen: Epoch | None = None
    """The job's epoch as the broker saw it, where the request changed nothing."""
    did: str | None = None
    """Of a `replayed` answer: the operation that this request id had carried out."""
    joined: bool = False
    """Of a submission: another job has its unique key, and the caller was pointed to that one."""
    v: int | None = None
    pid: int | None = None
    clock: str | None = None
    """With `start`: names the clock. Times of different clocks can't be compared."""
    file: str | UnsetType = UNSET
    line: int | UnsetType = UNSET
    """Where it was read; set by the reader."""

    @property
    def place(self) -> str:
        """`file:line`, or where it stands in a history that was never a file."""
        return f"{'memory' if self.file is UNSET else self.file}:{'?' if self.line is UNSET else self.line}"
