"""What the factories hold that register in one batch: a search looks at every lease there is, so it is made once."""

from collections.abc import Iterable, Sequence
from functools import cached_property

from broker.documents import Job
from broker.door import Taken
from broker.messages import RegisterFactory
from broker.repository import find_documents, leased_by, readable
from datastore import AnyOf, Datastore, Filter


class HeldLeases:
    """As one search shows it, made when the first of these factories is asked about. As stale as a search may be: what
    is granted later in the batch is none of it, but claims are settled before registrations.
    """

    def __init__(self, store: Datastore, batch: Sequence[Taken]) -> None:
        self._store = store
        self._batch = batch

    def by(self, factory_id: str) -> Iterable[Job]:
        """The jobs that a factory holds; of one that was not named before, as they are now.

        Raises:
          DatastoreError: the store could not be searched.
        """
        if factory_id not in self._factories:
            return leased_by(self._store, factory_id)
        return self._held.get(factory_id, ())

    @cached_property
    def _factories(self) -> set[str]:
        return {each.request.factory_id for each in self._batch if type(each.request) is RegisterFactory}

    @cached_property
    def _held(self) -> dict[str, list[Job]]:
        held: dict[str, list[Job]] = {}
        search: Filter = {"kind": "job", "state": "leased", "lease.factory_id": AnyOf(tuple(self._factories))}
        for job in readable(find_documents(self._store, search)):
            if job.lease is not None:
                held.setdefault(job.lease.factory_id, []).append(job)
        return held
