"""What happened to jobs, and to the fleet, as whoever watches reads it: one event, and where events are found.

A hint like all of Redis: an event may be missing after a crash, or be trimmed. The record is the datastore's runs.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias, cast

import msgspec
from msgspec.structs import replace

from datastore.value import Value

STREAM = "broker:events"
REASON_CHARS_MAX = 200


Lease: TypeAlias = tuple[str, int, int, int]
"""Job, epoch, renewals, and until when it is extended (broker time)."""


class Event(Value, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened. What does not apply is None; there is never a token."""

    event: str
    job_id: str = ""
    """Empty, and not in the JSON, where it concerns no job: then `subject` says what."""
    at_ms: int
    """Broker time, Unix milliseconds."""
    epoch: int | None = None
    factory_id: str | None = None
    """Who holds or held the lease; else who asked for what happened."""
    request_id: str | None = None
    """The request that did it; for what time did, the claim that was granted the lease."""
    by: str | None = None
    """Who asked, where that is not the holder."""
    holder: str | None = None
    """Of a refusal: who holds the job instead."""
    state: str | None = None
    """The job's state afterwards."""
    reason: str | None = None
    until_ms: int | None = None
    """A lease's expiry, or when a scheduled job is due."""
    renewals: int | None = None
    subject: str | None = None
    """What an operator changed, such as `queue builds` or `factory mac-1`."""
    leases: Sequence[Lease] = ()
    """Of several that were renewed together, what differs; whoever reads is given an event for each, without this."""
    cursor: str = ""
    """Where to go on after this event. Filled as it is read."""

    def each(self) -> "Sequence[Event]":
        """This event, or those that it stands for."""
        if not self.leases:
            return (self,)
        return [
            replace(self, job_id=job_id, epoch=epoch, renewals=renewals, until_ms=until_ms, leases=())
            for job_id, epoch, renewals, until_ms in self.leases
        ]

    def plain(self) -> dict[str, Any]:
        """As JSON values, without what does not apply."""
        return cast(dict[str, Any], msgspec.to_builtins(self))


class Claimed(Value, frozen=True):
    """The event of a grant, which most are: it goes into the stream as an `Event` with these members does."""

    event: str
    job_id: str
    at_ms: int
    epoch: int
    factory_id: str
    request_id: str
    state: str
    until_ms: int
    leases: ClassVar[Sequence[Lease]] = ()


Told: TypeAlias = Event | Claimed
"""What is written to the stream."""
