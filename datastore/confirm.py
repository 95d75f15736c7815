"""Find out what became of a write whose answer can't be trusted, by its mark, above any provider.

A provider's answer can be wrong about our own write: a connection that drops after the write was applied gives
a time-out, and a resend inside an SDK meets our own document and says "conflict". So each write carries a
`write_id` of its own, and here the document itself is asked:

  answer of the store                    read once            then
  ------------------------------------   ------------------   -----------------------------------------
  Ok                                     -                    Ok
  Conflict                               our mark             Ok: it was our own write
                                         another version      Conflict
                                         still as expected    the same conditional write again
  OutcomeUnknown, or any failure after   our mark             Ok
  one (it says nothing of that earlier   another version      Conflict
  try)                                   still as expected    the same conditional write again
                                         failed, stale        the same conditional write again
  NotApplied, Rejected, Corrupt at the   -                    raised as it is
  first try

"Still as expected" is never taken for "not written": the read may be stale and the write still on its way, so
the same precondition decides again, a bounded number of times; then OutcomeUnknown.

What the mark can't show: that our write landed and somebody wrote over it since. That is a Conflict here. Its caller
looks for its own request id in `current` before it tells anybody that a race was lost.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from datastore.errors import DatastoreError, NotApplied, OutcomeUnknown
from datastore.interface import (
    Body,
    Conflict,
    CreateResult,
    Datastore,
    Document,
    Expected,
    NotFound,
    Ok,
    Patch,
    ReadResult,
    Update,
    UpdateResult,
)

WRITE_ID: Final = "write_id"
"""The field that carries the mark of the last write."""

ATTEMPTS_MAX: Final = 3
"""Sends of one conditional write. A second settles nearly all: the fault that hid the first answer is over."""

UpdateEach: TypeAlias = Callable[[Sequence[Update]], list[UpdateResult]]
"""`TakesSeveral.update_each`, of a store that has it."""

Pause: TypeAlias = Callable[[int], None]
"""Called before each further send with how many sends went before; it may sleep."""


def no_pause(_sends: int) -> None:
    """Send again at once."""


def confirmed_create(
    store: Datastore,
    id: str,
    partition_key: str,
    body: Body,
    *,
    write_id: str,
    attempts_max: int = ATTEMPTS_MAX,
    pause: Pause = no_pause,
) -> CreateResult:
    """Create the document, marked with `write_id`; Ok if it is ours, however its answer came back.

    `write_id` is unique to this write. Conflict means that a document of another write stands there now.

    Raises:
      NotApplied, Rejected, Corrupt: as the store raised them at the first try; nothing was written.
      OutcomeUnknown: still open after `attempts_max` tries; the caller repeats its request under the same id.
    """
    marked = {**body, WRITE_ID: write_id}
    failure: DatastoreError | None = None
    for sends in range(attempts_max):
        if sends:
            pause(sends)
        try:
            result = store.create(id, partition_key, marked)
        except DatastoreError as error:
            if sends == 0 and not isinstance(error, OutcomeUnknown):
                raise
            failure, current = error, None  # a certain failure now says nothing about the sends before it
        else:
            if isinstance(result, Ok):
                return result
            current = result.current
        current = current or _read(store, id, partition_key)
        if current is not None:
            return Ok(current) if _carries(current, write_id) else Conflict(current)
    raise _unknown(id, attempts_max) from failure


def confirmed_update(
    store: Datastore,
    id: str,
    partition_key: str,
    expected: Expected,
    patch: Patch,
    *,
    write_id: str,
    attempts_max: int = ATTEMPTS_MAX,
    pause: Pause = no_pause,
    first: UpdateResult | OutcomeUnknown | None = None,
) -> UpdateResult:
    """Update the document if it is still `expected`, marked with `write_id`; Ok if the write is seen to be ours.

    `write_id` is unique to this write. Conflict means that a version of another write stands there now. `first`: what
    the store has said to the first send of this very write, which has been made.

    Raises:
      NotApplied, Rejected, Corrupt: as the store raised them at the first try; nothing was written.
      OutcomeUnknown: still open after `attempts_max` tries; the caller repeats its request under the same id.
    """
    marked = {**patch, WRITE_ID: write_id}
    failure: DatastoreError | None = None
    for sends in range(attempts_max):
        if sends:
            pause(sends)
        try:
            if sends == 0 and first is not None:
                result = _said(first)
            else:
                result = store.update_if_match(id, partition_key, expected, marked)
        except DatastoreError as error:
            if sends == 0 and not isinstance(error, OutcomeUnknown):
                raise
            failure, current = error, None  # a certain failure now says nothing about the sends before it
        else:
            if isinstance(result, Ok) or (isinstance(result, NotFound) and sends == 0):
                return result
            current = result.current if isinstance(result, Conflict) else None
        if current is None or _unmoved(current, expected):
            current = _read(store, id, partition_key)
            if current is None or _unmoved(current, expected):
                continue
        return Ok(current) if _carries(current, write_id) else Conflict(current)
    raise _unknown(id, attempts_max) from failure


def confirmed_updates(store: Datastore, updates: Sequence[Update]) -> list[UpdateResult | DatastoreError]:
    """What `confirmed_update` makes of each, in their order, or raises. The mark of each write is in its patch.

    Each stands for itself. Their first sends are made together where that costs less.
    """
    said: Sequence[UpdateResult | OutcomeUnknown | None] = [None] * len(updates)
    update_each: UpdateEach | None = getattr(store, "update_each", None)  # `isinstance` would take as long as a claim
    if updates and update_each is not None:
        try:
            said = update_each(updates)
        except OutcomeUnknown as error:
            said = [error] * len(updates)
        except NotApplied as error:
            return [error] * len(updates)
        except DatastoreError:  # it is about one of them, and nothing was written: which one it is shows one by one
            pass
    return [
        first if isinstance(first, Ok) else _confirmed(store, update, first)
        for update, first in zip(updates, said, strict=True)
    ]


def _confirmed(
    store: Datastore, update: Update, first: UpdateResult | OutcomeUnknown | None
) -> UpdateResult | DatastoreError:
    id, partition_key, patch = update.id, update.partition_key, update.patch
    expected = Expected.of(update.expected)
    write_id = str(patch[WRITE_ID])
    try:
        return confirmed_update(store, id, partition_key, expected, patch, write_id=write_id, first=first)
    except DatastoreError as error:
        return error


def _said(first: UpdateResult | OutcomeUnknown) -> UpdateResult:
    if isinstance(first, OutcomeUnknown):
        raise first
    return first


def _read(store: Datastore, id: str, partition_key: str) -> Document | None:
    try:
        result: ReadResult = store.read(id, partition_key)
    except DatastoreError:
        return None  # no answer is no evidence: the write's own precondition is asked again
    return result.document if isinstance(result, Ok) else None


def _unmoved(current: Document, expected: Expected) -> bool:
    """Whether this is the expected version, or one before it: a stale view, which shows nothing."""
    rev = expected.rev
    if rev is None and expected.known is not None and expected.matches(expected.known):
        rev = expected.known.rev
    return expected.matches(current) or (rev is not None and current.rev < rev)


def _carries(document: Document, write_id: str) -> bool:
    return document.body.get(WRITE_ID) == write_id


def _unknown(id: str, attempts_max: int) -> OutcomeUnknown:
    return OutcomeUnknown(f"{id!r}: still open after {attempts_max} sends; repeat the request under the same id")
