"""Workers and sweeps to kill by the hundred: real processes, forked from one that has imported all they need."""

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from multiprocessing.process import BaseProcess

from broker.settings import load
from tests.faults.twins import TWINS
from workers.claim_worker import ClaimWorker
from workers.leash import tie_to_parent
from workers.runtime import open_runtime, run_sweep, run_worker, worker_name

_STARTS = multiprocessing.get_context("forkserver")
END_S = 20
PRELOADED = (
    "tests.faults.killing",
    "tests.cosmos.emulator",
    "tests.cosmos.fault_proxy",
    "datastore.sqlite",
    "datastore.cosmos",
)
"""What a victim imports anew otherwise, each time: what the soak is made of, and the store that its URL names."""


def prepare() -> None:
    """Let the process that later ones are forked from import what they need."""
    _STARTS.set_forkserver_preload([__name__, *PRELOADED])


class Victim:
    """One process; `env` holds its BROKER_* settings, a fault point among them."""

    def __init__(self, target: Callable[..., None], env: Mapping[str, str], *arguments: str) -> None:
        self._process: BaseProcess = _STARTS.Process(target=target, args=(dict(env), *arguments), daemon=True)
        self._process.start()

    @property
    def killed(self) -> bool:
        """Whether it has ended by SIGKILL."""
        return self._process.exitcode == -signal.SIGKILL

    @property
    def exit(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.exitcode

    def wait(self) -> int | None:
        """Wait for its end; the exit status."""
        self._process.join(END_S)
        return self._process.exitcode

    def end(self) -> None:
        """Kill it if it lives, and reap it."""
        self._process.kill()
        self._process.join()
        self._process.close()


def worker(env: dict[str, str], twin: str = "") -> None:
    """Be a broker worker, or a broken twin of one."""
    _begin(env)
    if not twin:
        run_worker(load())
        return
    with closing(open_runtime(load())) as runtime:
        broken = TWINS[twin](runtime)
        ClaimWorker.for_runtime(broken, name=worker_name()).work()


def sweep(env: dict[str, str]) -> None:
    """Sweep once."""
    _begin(env)
    run_sweep(load(), once=True)


def _begin(env: dict[str, str]) -> None:
    if sys.platform == "linux":
        tie_to_parent(signal.SIGKILL)
    os.environ.update(env)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    logging.disable()
