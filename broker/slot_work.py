"""How much of its time a batch has spent on slots: all behind it wait, and so does who writes to the same file."""

from broker.slots import HOLDERS_MAX, SLOTS_MAX, Slot

_ONE_WRITE = 16
"""What a slot costs however few entries it has, in entries: measured on SQLite, 50 us beside 3 us for each."""
WORK_MAX = SLOTS_MAX * HOLDERS_MAX
"""Entries read or written from which on a batch begins no further claim that needs slots: 1 s, and one claim more."""


class SlotWork:
    """Counted by the claims of one batch, or by one explanation. About: threads may lose a few of each other's."""

    __slots__ = ("_at_most", "_entries")

    def __init__(self, *, at_most: int = WORK_MAX) -> None:
        self._at_most = at_most
        self._entries = 0

    @property
    def spent(self) -> bool:
        """Whether what comes now is to come again later."""
        return self._entries >= self._at_most

    def add(self, slot: Slot) -> None:
        """One look at a slot, and mostly a write."""
        self.add_units(len(slot.holders))

    def add_again(self, slot: Slot) -> None:
        """One look at a slot that was read before."""
        self._entries += 1 + len(slot.holders) // _ONE_WRITE

    def add_units(self, entries: int) -> None:
        """One look at the slot of a limit that may have so many."""
        self._entries += _ONE_WRITE + entries

    def add_reads(self, jobs: int) -> None:
        """Looks at the jobs of entries."""
        self._entries += _ONE_WRITE * jobs
