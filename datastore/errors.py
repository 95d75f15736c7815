"""Failures a provider may raise, split by one question: was it written?

DatastoreError
├── NotApplied            certainly not written; safe to try again
│   ├── Throttled         ... after `retry_after_ms`
│   ├── Unavailable       ... refused, unreachable, disk full
│   │   └── Missing       ... there is no such file, or no folder for it
│   └── Denied            ... the store does not let this process in: key, token, role, firewall, no such container
├── OutcomeUnknown        may have been written; read before any other write
├── Rejected              would fail again: malformed or too large a document, a store that can't be used as it is
│   └── UnknownCursor     ... a search was to go on where no page of ours has ended
└── Corrupt               the stored document does not parse

Expected answers (a conflict, a missing document) are returned values and never stand here.
"""


class DatastoreError(Exception):
    """Root of everything a datastore raises on purpose."""


class NotApplied(DatastoreError):
    """Certainly nothing was written. The same call may be tried again."""


class Throttled(NotApplied):
    """The store asks for a pause of `retry_after_ms` milliseconds. Nothing was written."""

    def __init__(self, message: str, *, retry_after_ms: int) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class Unavailable(NotApplied):
    """The store refused or could not be reached before the write began. Nothing was written."""


class Missing(Unavailable):
    """The store, or the folder it is to be made in, does not exist. Nothing was made."""


class Denied(NotApplied):
    """The store does not let this process in; the message says what to look at. Nothing was written.

    Not the call's fault: the same one may be carried out by another process now, and by this one once its key, its
    role, the firewall or the container is right, which takes minutes and an operator rather than another try.
    """


class OutcomeUnknown(DatastoreError):
    """The write may or may not have been applied, and may still be on its way. Read before any other write."""


class Rejected(DatastoreError):
    """The call would fail again unchanged, wherever it is made: a document it can't hold, or a setting."""


class UnknownCursor(Rejected):
    """A search was to go on from a cursor that came from no page. The mistake is of who asked."""


class Corrupt(DatastoreError):
    """A stored document does not parse. It is left as it is; an operator has to look at it."""
