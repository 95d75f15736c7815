"""The part of the contract that the whole broker stands on: of writers that race, exactly one wins."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Final

from datastore.contract_probe import Probe, expect
from datastore.interface import CreateResult, Ok, UpdateResult

RACERS: Final = 16
START_TIMEOUT_S: Final = 30
"""A bound for a machine that can't start the racers' threads; then the check fails instead of hanging."""


def of_sixteen_racing_updates_exactly_one_wins(probe: Probe) -> None:
    stored = probe.new({"winner": None})
    _expect_one_winner(probe, lambda racer: probe.update(stored, {"winner": racer}, etag=stored.etag))
    expect(probe.stored(stored).rev == 2, "losers wrote")


def of_sixteen_racing_updates_by_rev_exactly_one_wins(probe: Probe) -> None:
    stored = probe.new({"winner": None})
    _expect_one_winner(probe, lambda racer: probe.update(stored, {"winner": racer}, rev=1))
    expect(probe.stored(stored).rev == 2, "losers wrote")


def of_sixteen_racing_updates_from_one_known_document_exactly_one_wins(probe: Probe) -> None:
    stored = probe.new({"winner": None})
    _expect_one_winner(probe, lambda racer: probe.update(stored, {"winner": racer}, etag=stored.etag, known=stored))
    expect(probe.stored(stored).rev == 2, "losers wrote")


def of_sixteen_racing_creates_exactly_one_wins(probe: Probe) -> None:
    new_id = probe.new_id()
    _expect_one_winner(probe, lambda racer: probe.store.create(new_id, probe.partition_key, {"winner": racer}))


def _expect_one_winner(probe: Probe, run: Callable[[int], UpdateResult | CreateResult]) -> None:
    start = Barrier(RACERS)

    def race(racer: int) -> UpdateResult | CreateResult:
        start.wait(START_TIMEOUT_S)
        return run(racer)

    with ThreadPoolExecutor(RACERS) as threads:
        results = list(threads.map(race, range(RACERS)))
    winners = [(racer, result.document) for racer, result in enumerate(results) if isinstance(result, Ok)]
    expect(len(winners) == 1, f"{len(winners)} of {RACERS} racing writers won")
    racer, document = winners[0]
    expect(probe.stored(document).body.get("winner") == racer, "what is stored is not the winner's")


RACES = (
    of_sixteen_racing_updates_exactly_one_wins,
    of_sixteen_racing_updates_by_rev_exactly_one_wins,
    of_sixteen_racing_updates_from_one_known_document_exactly_one_wins,
    of_sixteen_racing_creates_exactly_one_wins,
)
