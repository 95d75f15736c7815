"""Says in a worker's log that its datastore fails, and why: those who ask are only told to come again."""

from collections.abc import Callable, Iterable

import structlog

from broker.answers import Answer, Reason, Word
from broker.batch import Settled
from broker.clock import Steady
from broker.messages import RenewMany
from datastore import Datastore, DatastoreError
from workers.one_store import MARK_ID

log = structlog.get_logger(__name__)

AGAIN_MS = 60_000
"""It is said so often while it lasts, and where it comes and goes."""
STEP = "see to the datastore: until it answers, whoever asks is told to come again; `broker doctor` looks closer"


class StoreWatch:
    """Looks at what became of each batch. Of a store that serves it asks nothing."""

    def __init__(self, store: Datastore, worker: str, *, steady_ms: Steady) -> None:
        self._store = store
        self._worker = worker
        self._steady_ms = steady_ms
        self._said_ms: int | None = None
        self._fails = False
        """Whether it was said, and nothing else since."""
        self._asked_ms: int | None = None
        """When it was asked whether it refuses more than what it was sent."""

    def after(self, batch: Iterable[Settled]) -> None:
        """Say it where the store failed some of these, and that it serves again."""
        failed = refused = 0
        for each in batch:
            answer = each.answer
            if answer is None:
                continue
            if answer.reason is Reason.STORE and answer.word is Word.INVALID:
                refused += 1
            elif answer.reason is Reason.STORE or (type(each.request) is RenewMany and _lost(answer)):
                failed += 1
        if failed:
            self._say(failed, self._ask)
        elif refused:
            self._look(refused)
        elif self._fails:
            self._fails = False
            log.info("store_serves_again", worker=self._worker)

    def _look(self, refused: int) -> None:
        """Whether the store refuses all there is, or only what it was sent: that is up to who sends."""
        now_ms = self._steady_ms()
        if self._asked_ms is not None and now_ms - self._asked_ms < AGAIN_MS:
            return
        self._asked_ms = now_ms
        if (why := self._ask()) is not None:
            self._say(refused, lambda: why)

    def _say(self, failed: int, ask: Callable[[], str | None]) -> None:
        now_ms = self._steady_ms()
        if self._said_ms is not None and now_ms - self._said_ms < AGAIN_MS:
            return
        self._said_ms, self._fails = now_ms, True
        why = ask()
        if why is None:  # a moment of trouble, or more than it takes at a time
            log.warning("store_failed", worker=self._worker, requests=failed)
        else:
            log.error("store_failed", worker=self._worker, requests=failed, error=why, next=STEP)

    def _ask(self) -> str | None:
        """What the store says of itself now; None where it answers."""
        try:
            self._store.read(MARK_ID, MARK_ID)
        except DatastoreError as error:
            return str(error)
        return None


def _lost(answer: Answer) -> bool:
    """Whether the store failed the leases that this is told of: one that is lost fails each."""
    first, *_ = answer.body.get("results") or [{}]
    return bool(first.get("reason") == Reason.STORE.value)
