"""Writers that race for one document from processes of their own."""

import multiprocessing
from importlib import import_module
from multiprocessing.synchronize import Barrier

from datastore.interface import Datastore, Expected, Ok

DEADLINE_S = 60


def race_in_processes(opener: str, path: str, *, racers: int) -> list[int]:
    """The racers whose update of the document `job` at rev 1 was answered Ok.

    `opener` is the dotted path of what opens the store at `path`, as `module:name`.
    """
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(racers), context.SimpleQueue()
    processes = [
        context.Process(target=_race, args=(opener, path, start, answers, racer), daemon=True)
        for racer in range(racers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(DEADLINE_S)
    assert [process.exitcode for process in processes] == [0] * racers
    answered = [answers.get() for _ in processes]
    answers.close()
    return [racer for racer, won in answered if won]


def open_store(opener: str, path: str) -> Datastore:
    """The store at `path`, opened by the function that `opener` names."""
    module, _, name = opener.partition(":")
    store: Datastore = getattr(import_module(module), name)(path)
    return store


def _race(
    opener: str, path: str, start: Barrier, answers: "multiprocessing.SimpleQueue[tuple[int, bool]]", racer: int
) -> None:
    store = open_store(opener, path)
    start.wait(DEADLINE_S)
    answers.put((racer, isinstance(store.update_if_match("job", "job", Expected(rev=1), {"winner": racer}), Ok)))
    store.close()
