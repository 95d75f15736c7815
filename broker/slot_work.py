"""How much of its time a batch has spent on slots: all behind it wait, and so does who writes to the same file."""

from broker.slots import HOLDERS_MAX, SLOTS_MAX, Slot

_ONE_WRITE = 16
"""What a slot costs however few entries it has, in entries: measured on SQLite, 50 us beside 3 us for each."""
WORK_MAX = SLOTS_MAX * HOLDERS_MAX
"""Entries read or written from which on a batch begins no further claim that needs slots: 1 s, and one claim more."""


class SlotWork:
    """Counted by the claims of one batch. About: threads may lose a few of each other's."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries = 0

    @property
    def spent(self) -> bool:
        """Whether the claims that come now are to come again later."""
        return self._entries >= WORK_MAX

    def add(self, slot: Slot) -> None:
        """One look at a slot, and mostly a write."""
        self._entries += _ONE_WRITE + len(slot.holders)

    def add_reads(self, jobs: int) -> None:
        """Looks at the jobs of entries."""
        self._entries += _ONE_WRITE * jobs
