"""The store's side: what is really stored, seen by the judge, and each process's connection to it, which lies."""

from collections.abc import Callable
from random import Random

from broker.controls import FLEET_ID
from datastore.errors import OutcomeUnknown, Throttled, Unavailable
from datastore.interface import (
    Body,
    Conflict,
    CreateResult,
    Datastore,
    Document,
    Expected,
    Filter,
    NotFound,
    Ok,
    Page,
    Patch,
    ReadResult,
    UpdateResult,
)
from datastore.matching import matcher
from datastore.memory import MemoryDatastore
from tests.simulation.faults import Dice
from tests.simulation.process import Process
from tests.simulation.timeline import Timeline
from tests.twins.forwarding import Forwarding
from tests.twins.several import OneByOne

VERSIONS_KEPT = 6
SLOW_MS = 9_000
LATE_MS = 3_000
"""A write whose sender has given up may land until then."""

Seen = Callable[[Document], None]
_NOTHING = Page((), None)


class TrueStore(Forwarding):
    """The production memory store. Every write is shown to the judge; earlier versions are kept for stale reads."""

    def __init__(self, seen: Seen) -> None:
        super().__init__(MemoryDatastore(etag_prefix="e"))
        self._seen = seen
        self._versions: dict[tuple[str, str], list[Document]] = {}
        self._kinds: dict[object, dict[tuple[str, str], Document]] = {}
        self._states: dict[tuple[object, object], dict[tuple[str, str], Document]] = {}
        """Those of a kind that are in a state: mostly none."""

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        result = self.inner.create(id, partition_key, body)
        if isinstance(result, Ok):
            self._wrote(result.document)
        return result

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        result = self.inner.update_if_match(id, partition_key, expected, patch)
        if isinstance(result, Ok):
            self._wrote(result.document)
        return result

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        """As the memory store, which goes through all there is: here, in one page, through the kind that is asked for.

        The sweeps of a run search some thousand times.
        """
        kind = "run" if "open" in filter else filter.get("kind", "job" if "state" in filter else None)
        if kind is None or cursor is not None:
            return super().find(filter, limit, cursor)
        state = filter.get("state")
        documents = self._states.get((kind, state)) if isinstance(state, str) else self._kinds.get(kind)
        if not documents:
            return _NOTHING
        met = matcher(filter)
        found = sorted(key for key, document in documents.items() if met(document))
        return Page(tuple(documents[key] for key in found), None)

    def earlier(self, id: str, partition_key: str, random: Random) -> ReadResult:
        """Some version before the one that stands, or none where that is as likely.

        What an operator has said of the fleet is read as it is: a limit holds as soon as it is seen.
        """
        if id == FLEET_ID:
            return self.inner.read(id, partition_key)
        versions = self._versions.get((partition_key, id), [])[:-1]
        return Ok(random.choice(versions)) if versions and random.random() < 0.8 else NotFound()

    def _wrote(self, after: Document) -> None:
        key = (after.partition_key, after.id)
        kind, state = after.body.get("kind"), after.body.get("state")
        self._kinds.setdefault(kind, {})[key] = after
        versions = self._versions.setdefault(key, [])
        if versions:
            self._states[kind, versions[-1].body.get("state")].pop(key)
        self._states.setdefault((kind, state), {})[key] = after
        versions.append(after)
        del versions[:-VERSIONS_KEPT]
        self._seen(after)


class Line(OneByOne):
    """One process's connection to the store. Every call takes time, and some are lost, late or stale."""

    def __init__(self, inner: Datastore, truth: TrueStore, process: Process, dice: Dice, timeline: Timeline) -> None:
        super().__init__(inner)
        self._truth = truth
        self._process = process
        self._dice = dice
        self._timeline = timeline

    def read(self, id: str, partition_key: str) -> ReadResult:
        fault = self._call("store_read")
        if fault == "read_failed":
            raise Unavailable("simulated: the read failed")
        if fault == "read_stale":
            return self._truth.earlier(id, partition_key, self._dice.random)
        return self.inner.read(id, partition_key)

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        fault = self._call("store_find")
        if fault == "find_failed":
            raise Unavailable("simulated: the search failed")
        page = self.inner.find(filter, limit, cursor)
        if fault == "find_stale":
            found = [self._truth.earlier(each.id, each.partition_key, self._dice.random) for each in page.documents]
            return Page(tuple(each.document for each in found if isinstance(each, Ok)), page.cursor)
        return page

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        result = self._write(id, partition_key, lambda: self.inner.create(id, partition_key, body))
        assert not isinstance(result, NotFound)
        return result

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        return self._write(id, partition_key, lambda: self.inner.update_if_match(id, partition_key, expected, patch))

    def _call(self, site: str) -> str:
        """The time a call takes, on its way there or back: a crash in between has had its effect, or not."""
        fault = self._dice.roll(site)
        random = self._dice.random
        self._process.wait(random.uniform(0, SLOW_MS) if fault.endswith("slow") else random.uniform(0.2, 4))
        return fault

    def _write(self, id: str, partition_key: str, write: Callable[[], UpdateResult]) -> UpdateResult:
        fault = self._call("store_write")
        match fault:
            case "write_refused":
                raise Unavailable("simulated: refused before the write")
            case "write_throttled":
                raise Throttled("simulated: throttled", retry_after_ms=50)
            case "write_request_lost":
                raise OutcomeUnknown("simulated: the request was lost")
            case "write_late":
                self._timeline.after(self._dice.random.uniform(1, LATE_MS), lambda: _land(write))
                raise OutcomeUnknown("simulated: it is still on its way")
        result = write()
        if self._dice.random.random() < 0.5:
            self._process.wait(self._dice.random.uniform(0.2, 4))  # on its way back
        match fault:
            case "write_answer_lost":
                raise OutcomeUnknown("simulated: the answer was lost")
            case "write_own_conflict":
                return Conflict(None)
            case "write_own_conflict_shown":
                found = self.inner.read(id, partition_key)
                return Conflict(found.document if isinstance(found, Ok) else None)
        return result


def _land(write: Callable[[], UpdateResult]) -> None:
    write()
