"""Which one of several waiting threads reads the replies, for itself and for all the others.

    begin, nobody reads --> reads --end--> the one that has waited longest reads
    begin, one reads    --> waits --end, or woken for its reply-->
                                  --appointed--> reads

Whoever waits is in one of the two, and while somebody waits, somebody reads.
"""

import threading


class Waiter:
    """One thread's place to wait. A wake-up that comes before its wait ends that wait."""

    __slots__ = ("_gate", "thread")

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._gate.acquire()
        self.thread = threading.get_ident()

    def wait(self, ms: int) -> None:
        """Until it is woken, for `ms` milliseconds at most."""
        self._gate.acquire(timeout=ms / 1000)

    def done(self) -> bool:
        """Whether it was woken and has not noticed yet."""
        return not self._gate.locked()

    def set_result(self, result: None = None, /) -> None:  # noqa: ARG002  # what there is to know stands elsewhere
        """Wake it."""
        try:
            self._gate.release()
        except RuntimeError:  # it is awake
            return


class Turns:
    """The threads of one client that wait for replies."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a handler of a signal may close the client, wherever this thread is
        self._waiting: dict[Waiter, None] = {}
        self._reader: Waiter | None = None
        self._begun = 0
        self._seen = 0

    def begin(self, waiter: Waiter) -> None:
        """`waiter` waits from now on, or reads where nobody does. It must come to its `end`. Harmless twice."""
        with self._lock:
            self._waiting[waiter] = None
            self._begun += 1
            if self._reader is None:
                self._reader = waiter

    def reads(self, waiter: Waiter) -> bool:
        """Whether it is this one's turn to read."""
        return self._reader is waiter

    def end(self, waiter: Waiter) -> None:
        """`waiter` waits no more. Where it was to read, the next one is woken to do it. Harmless twice."""
        with self._lock:
            self._waiting.pop(waiter, None)
            if self._reader is waiter:
                self._reader = next(iter(self._waiting), None)
            if self._reader is not None:  # also where this is done again, since an interrupt came before it
                self._reader.set_result()

    def stand_in(self, waiter: Waiter) -> bool:
        """Read where nobody does, and nobody has begun to wait since the last time this was asked."""
        with self._lock:
            idle = self._reader is None and self._begun == self._seen
            self._seen = self._begun
            if idle:
                self._reader = waiter
            return idle

    @property
    def wanted(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    @property
    def reader(self) -> Waiter | None:
        """Who reads."""
        return self._reader
