"""Ctrl-C at every step of taking a lease into keeping and out of it again: the others are kept all the same."""

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from types import FrameType
from typing import Any

from broker.client.keeper import Keeper
from broker.client.lease import Lease
from broker.client.tenure import Tenure
from tests.processes import DEADLINE_MS, wait_for
from tests.unit.test_call import grant
from tests.unit.test_slept_through import Line, Sleeper


@contextmanager
def interrupted(at: int, handler: Callable[[], None] | None = None) -> Iterator[Callable[[], bool]]:
    """Raise KeyboardInterrupt, or call this, at this step of the block. Gives what says whether the block had so many.

    A step is where Python looks for signals: as a function begins, and as one of C has returned. Not in the collector's
    callbacks (Hypothesis has one), whose exceptions go nowhere.
    """
    steps = count()
    struck = False

    def look(frame: FrameType, event: str, argument: Any) -> None:  # noqa: ARG001  # as Python calls it
        nonlocal struck
        if event in ("call", "c_return") and next(steps) == at:
            struck = True
            if handler is None:
                raise KeyboardInterrupt
            handler()

    collects = gc.isenabled()
    gc.disable()
    sys.setprofile(look)
    try:
        yield lambda: struck
    finally:
        sys.setprofile(None)
        if collects:
            gc.enable()


def test_an_interrupt_at_any_step_stops_no_other_lease_from_being_kept() -> None:
    machine = Sleeper()
    keeper = machine.keeping(Keeper, Line())
    held = [Lease(machine.wiring(keeper)) for _ in range(2)]
    for lease in held:
        lease._tenure = Tenure(grant(sent_ms=0, job_id=f"j{id(lease)}"))
    keeper.keep(held[0])
    wait_for(lambda: len(keeper._changed._waiters) == 2, "what renews and what watches wait")
    for at in count():
        try:
            with interrupted(at) as was:
                keeper.keep(held[1])
                keeper.let_go(held[1])
        except KeyboardInterrupt:
            continue
        if not was():
            break
    assert at > 10, "it was interrupted nowhere"
    closing = threading.Thread(target=keeper.close, daemon=True)
    closing.start()
    closing.join(DEADLINE_MS / 1_000)
    assert not closing.is_alive(), "it waits for good"
    assert held[0].lost.is_set()
