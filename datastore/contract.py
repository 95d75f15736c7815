"""The contract of `Datastore` as data: run by the tests on each provider, and by `check-store` on a live store."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from datastore.contract_bodies import BODIES
from datastore.contract_probe import BOGUS_ETAG, RESERVED_PREFIX, ContractViolation, Probe
from datastore.contract_races import RACES
from datastore.contract_searches import SEARCHES
from datastore.contract_writes import WRITES
from datastore.errors import DatastoreError
from datastore.interface import Conflict, Datastore, Document, Expected, NotFound, Ok

__all__ = ["CHECKS", "RACE_CHECKS", "Check", "ContractViolation", "Finding", "require_conditional_writes", "run_checks"]


@dataclass(frozen=True, slots=True)
class Check:
    """One promise of the contract: its sentence, and the function that tries it."""

    name: str
    try_on: Callable[[Probe], None]

    def run(self, store: Datastore, *, run_id: str | None = None) -> None:
        """Try the promise on `store`, with documents under `RESERVED_PREFIX` that stay there.

        `run_id` sets them apart from other runs'; random unless given.

        Raises:
          ContractViolation: the store breaks the promise.
          DatastoreError: the store failed; nothing is known about the promise.
        """
        self.try_on(Probe(store, secrets.token_hex(6) if run_id is None else run_id))

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: `failure` is None where the promise holds."""

    name: str
    failure: ContractViolation | DatastoreError | None


def _check(function: Callable[[Probe], None]) -> Check:
    return Check(function.__name__.replace("_", " "), function)


RACE_CHECKS: Final = tuple(_check(function) for function in RACES)
CHECKS: Final = (*(_check(function) for function in (*WRITES, *BODIES, *SEARCHES)), *RACE_CHECKS)
"""Every promise; the first is the one without which nothing else counts: a bogus etag is refused."""


def run_checks(store: Datastore) -> Iterator[Finding]:
    """Run every check on `store`, each with documents of its own, and yield what it found."""
    for check in CHECKS:
        try:
            check.run(store)
        except (ContractViolation, DatastoreError) as failure:
            yield Finding(check.name, failure)
        else:
            yield Finding(check.name, None)


def require_conditional_writes(store: Datastore) -> None:
    """Refuse a store that ignores the expected version. Every worker asks this before it serves.

    Uses one fixed document, so that it leaves no more behind however often it runs.

    Raises:
      ContractViolation: the store wrote although the etag was bogus.
      DatastoreError: the store failed; nothing is known.
    """
    name = f"{RESERVED_PREFIX}probe"
    match store.create(name, name, {}):
        case Ok(document):
            rev = document.rev
        case Conflict(current):
            rev = 1 if current is None else current.rev
    # As `known` too, so that a provider has to send the etag to its server instead of comparing by itself.
    forged = Document(name, name, rev, BOGUS_ETAG, {})
    match store.update_if_match(name, name, Expected(etag=BOGUS_ETAG, known=forged), {}):
        case Conflict():
            return
        case Ok():
            raise ContractViolation(
                "the store wrote although the expected etag was bogus: it ignores If-Match, and two factories would "
                "get one job. Use another emulator or SDK version, then run `broker check-store`"
            )
        case NotFound():
            raise ContractViolation("the store can't find the document it was just asked to keep")
