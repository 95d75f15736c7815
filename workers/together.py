"""Does the same with many jobs, so many of them in one group of writes: thousands may come due at the same moment."""

from collections.abc import Callable, Iterable, Iterator

import structlog

from broker.documents import Job
from broker.settlement import Change
from datastore import Datastore, DatastoreError

log = structlog.get_logger(__name__)

GROUP = 64
"""Jobs whose changes are written together: as many as a batch of requests has, after which others have their turn."""


def each(store: Datastore, jobs: Iterable[Job], act: Callable[[Job], tuple[Change, ...]]) -> Iterator[Change]:
    """What `act` changes of each. It raises nothing.

    Where a group can't be written they are tried one by one: the others are not to wait for the one that can't be.
    """
    for group in _groups(jobs):
        try:
            with store.batch():
                changes = [change for job in group for change in act(job)]
        except DatastoreError as error:
            log.warning("written_one_by_one", error=str(error))
            changes = [change for job in group for change in act(job)]
        yield from changes


def _groups(jobs: Iterable[Job]) -> Iterator[list[Job]]:
    """So many at a time. What came before a failure comes before it here, too."""
    group: list[Job] = []
    failure: DatastoreError | None = None
    try:
        for job in jobs:
            group.append(job)
            if len(group) == GROUP:
                yield group
                group = []
    except DatastoreError as error:
        failure = error
    if group:
        yield group
    if failure is not None:
        raise failure
