"""Finds each peer's best setting for each number of outstanding requests, before its ratio is quoted."""

from collections.abc import Callable, Sequence

from benchmarks import environments
from benchmarks.measure import Measure
from benchmarks.peers.rows import Peer
from benchmarks.peers.settings import SETTINGS, Setting
from benchmarks.plan import Row
from benchmarks.processes import BenchError
from benchmarks.replay.rows import PeerReplayed
from benchmarks.results import Results
from benchmarks.visit import Rates, visit

WARM_S = 0.3
WINDOW_S = 1.0
CLOSE = 0.5
"""A Python peer with less than this share of the best is visited in few rounds, and at the highest level only."""


def sweep(peers: Sequence[str], levels: Sequence[int], results: Results, *, progress: Callable[[str], None]) -> None:
    """One short window for each peer, setting and level, into `results.swept`."""
    rates = Rates()
    for name in peers:
        for setting in SETTINGS[name]:
            progress(f"sweep: {name}, {setting.name}")
            for part in _parts(setting, levels):
                try:
                    results.swept += visit(
                        Peer(name, setting), part, round=0, warm_s=WARM_S, window_s=WINDOW_S, rates=rates
                    )
                except BenchError as error:
                    results.failures.append(f"sweep of {setting.name} at {part}: {error}")


def _parts(setting: Setting, levels: Sequence[int]) -> Sequence[Sequence[int]]:
    """Levels to visit together. Waiting for very many results by the peer's own way may fail: then the others count."""
    if setting.answers == "list":
        return (levels,)
    return (levels[:-1], levels[-1:])


def peer_rows(swept: Sequence[Measure], levels: Sequence[int], *, few: int) -> tuple[Row, ...]:
    """The peers as rows, each level in its best setting; `few` rounds at the highest level for those far behind."""
    rows: list[Row] = []
    for name in dict.fromkeys(measure.row for measure in swept):
        by_setting: dict[Setting, list[int]] = {}
        for level in levels:
            found = [each for each in swept if each.row == name and each.outstanding == level]
            if found and (level == max(levels) or _matters(name, level, swept)):
                best = max(found, key=lambda each: each.per_s)
                by_setting.setdefault(_setting(best), []).append(level)
        rounds = None if _matters(name, max(levels), swept) else few
        rows += [Row(Peer(name, setting), tuple(at), rounds) for setting, at in by_setting.items()]
    return tuple(rows)


def replayed_rows(swept: Sequence[Measure], level: int, *, rounds: int) -> tuple[Row, ...]:
    """The best Python peer and each of the others under Node, asked by the same client as ours.

    In their best setting that answers on the list, since that is where this client reads.
    """
    on_list = [each for each in swept if each.outstanding == level and _setting(each).answers == "list"]
    python = [each for each in on_list if each.row in environments.PYTHON_PEERS]
    best = [max(python, key=lambda each: each.per_s)] if python else []
    for name in environments.NODE_PEERS:
        found = [each for each in on_list if each.row == name]
        best += [max(found, key=lambda each: each.per_s)] if found else []
    return tuple(Row(PeerReplayed(Peer(each.row, _setting(each))), (level,), rounds) for each in best)


def _setting(measure: Measure) -> Setting:
    return next(setting for setting in SETTINGS[measure.row] if setting.name == measure.extra["setting"])


def available(names: Sequence[str], results: Results) -> list[str]:
    """The peers whose environment is there, or could be made."""
    there = [name for name in names if environments.made(name)]
    results.failures += [f"{name}: its environment could not be made" for name in names if name not in there]
    return there


def _matters(name: str, level: int, swept: Sequence[Measure]) -> bool:
    if name in environments.NODE_PEERS:
        return True
    at_level = [each for each in swept if each.outstanding == level and each.row in environments.PYTHON_PEERS]
    best = max(each.per_s for each in at_level)
    return max(each.per_s for each in at_level if each.row == name) >= CLOSE * best
