"""The settings each peer is swept over, the best at 256 outstanding requests first.

`make bench` sweeps them before it quotes a ratio, and takes the best for each number of outstanding requests;
`make bench-quick` takes the first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to run a peer."""

    name: str
    command: tuple[str, ...]
    """The worker's command line; its first word is a program of the peer's environment."""
    copies: int = 1
    answers: Literal["list", "result"] = "list"
    """On a list, as ours; or by the peer's own results."""
    env: Mapping[str, str] = field(default_factory=dict, hash=False)


def _huey(workers: int, kind: str, answers: Literal["list", "result"] = "list") -> Setting:
    command = ("huey_consumer", "benchmarks.peers.huey_peer.huey", "-q", "-n", "-w", str(workers), "-k", kind)
    return Setting(f"{workers} {kind}, {answers}", command, answers=answers)


def _dramatiq(
    processes: int, threads: int, *, lean: bool = False, prefetch: int = 0, answers: Literal["list", "result"] = "list"
) -> Setting:
    command = ("dramatiq", "benchmarks.peers.dramatiq_peer", "-p", str(processes), "-t", str(threads), "--skip-logging")
    name = f"{processes} x {threads} threads, {'no' if lean else 'default'} middleware, {answers}"
    env = {"BENCH_DRAMATIQ_LEAN": "1"} if lean else {}
    if prefetch:
        env["dramatiq_queue_prefetch"] = str(prefetch)
        name += f", prefetch {prefetch}"
    return Setting(name, command, answers=answers, env=env)


def _saq(copies: int, concurrency: int, answers: Literal["list", "result"] = "list") -> Setting:
    command = ("saq", "benchmarks.peers.saq_peer.settings", "--quiet")
    env = {"BENCH_CONCURRENCY": str(concurrency)}
    return Setting(f"{copies} processes x {concurrency}, {answers}", command, copies, answers, env)


def _taskiq(workers: int, tasks: int, answers: Literal["list", "result"] = "list") -> Setting:
    options = ("-w", str(workers), "--max-async-tasks", str(tasks), "--max-prefetch", str(tasks))
    command = ("taskiq", "worker", "benchmarks.peers.taskiq_peer:broker", "--log-level", "ERROR", *options)
    return Setting(f"{workers} processes x {tasks}, {answers}", command, answers=answers)


def _celery(copies: int, pool: str, prefetch: int, answers: Literal["list", "result"] = "list") -> Setting:
    options = ("-P", pool, "-c", "1" if pool == "solo" else "2", "--prefetch-multiplier", str(prefetch))
    quiet = ("-l", "ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat")
    command = ("celery", "-A", "benchmarks.peers.celery_peer", "worker", *options, *quiet)
    return Setting(f"{copies} x {pool}, prefetch {prefetch}, {answers}", command, copies, answers)


def _arq(copies: int, jobs: int, poll_s: float, answers: Literal["list", "result"] = "list") -> Setting:
    command = ("arq", "benchmarks.peers.arq_peer.WorkerSettings")
    env = {"BENCH_CONCURRENCY": str(jobs), "BENCH_POLL_S": str(poll_s)}
    return Setting(f"{copies} processes x {jobs}, poll {poll_s} s, {answers}", command, copies, answers, env)


def _streaq(workers: int, concurrency: int, answers: Literal["list", "result"] = "list") -> Setting:
    command = ("streaq", "run", "benchmarks.peers.streaq_peer:worker", "-w", str(workers))
    env = {"BENCH_CONCURRENCY": str(concurrency)}
    return Setting(f"{workers} processes x {concurrency}, {answers}", command, 1, answers, env)


def _bullmq(copies: int, concurrency: int, answers: Literal["list", "result"] = "list") -> Setting:
    env = {"BENCH_CONCURRENCY": str(concurrency)}
    return Setting(f"{copies} processes x {concurrency}, {answers}", ("worker.mjs",), copies, answers, env)


SETTINGS: Mapping[str, tuple[Setting, ...]] = {
    "huey": (_huey(4, "thread"), _huey(2, "process"), _huey(1, "process"), _huey(4, "process"),
             _huey(2, "process", "result")),
    "dramatiq": (_dramatiq(2, 8), _dramatiq(2, 1, lean=True), _dramatiq(1, 8, lean=True), _dramatiq(2, 1),
                 _dramatiq(2, 1, lean=True, prefetch=64), _dramatiq(2, 2, answers="result")),
    "saq": (_saq(2, 32), _saq(1, 32), _saq(2, 10), _saq(2, 128), _saq(2, 32, "result")),
    "taskiq": (_taskiq(2, 100), _taskiq(1, 100), _taskiq(2, 16), _taskiq(2, 100, "result")),
    "celery": (_celery(2, "solo", 4), _celery(2, "solo", 64), _celery(1, "prefork", 16),
               _celery(2, "solo", 4, "result")),
    "arq": (_arq(2, 50, 0.005), _arq(1, 100, 0.005), _arq(2, 10, 0.02), _arq(2, 50, 0.005, "result")),
    "streaq": (_streaq(2, 32), _streaq(1, 64), _streaq(2, 16, "result")),
    "bullmq": (_bullmq(2, 64), _bullmq(1, 128), _bullmq(2, 16), _bullmq(2, 64, "result")),
}  # fmt: skip
