"""Which faults strike, how often, and how often they did: each seed draws a mixture of its own."""

from collections import Counter
from collections.abc import Callable, Mapping
from random import Random

SITES: Mapping[str, Mapping[str, float]] = {
    "store_read": {"read_failed": 0.01, "read_stale": 0.04, "read_slow": 0.005},
    "store_find": {"find_failed": 0.01, "find_stale": 0.05},
    "store_write": {
        "write_refused": 0.015,
        "write_throttled": 0.005,
        "write_answer_lost": 0.03,
        "write_request_lost": 0.02,
        "write_own_conflict": 0.02,
        "write_own_conflict_shown": 0.01,
        "write_late": 0.02,
        "write_slow": 0.01,
    },
    "file_read": {"file_read_failed": 0.002},
    "file_write": {"file_write_failed": 0.005},
    "file_commit": {"commit_refused": 0.01, "commit_lost": 0.01, "commit_answer_lost": 0.02},
    "redis": {
        "redis_refused": 0.002,
        "redis_reply_lost": 0.003,
        "redis_cut": 0.004,
        "redis_slow": 0.003,
        "redis_late": 0.003,
    },
    "waits_lost": {"waits_go_on": 0.3},
    "send": {
        "send_refused": 0.02,
        "request_lost": 0.04,
        "request_late": 0.06,
        "request_doubled": 0.06,
    },
    "receive": {"reply_lost": 0.06, "reply_late": 0.05, "reply_doubled": 0.05, "channel_broken": 0.02},
}
"""By the place where they strike: the share of calls they befall, on the average of all seeds."""

EVENTS: Mapping[str, float] = {
    "worker_crash": 2.0,
    "worker_pause": 1.0,
    "sweep_crash": 0.6,
    "sweep_pause": 0.6,
    "factory_crash": 1.5,
    "factory_pause": 1.5,
    "clock_ahead": 0.4,
    "clock_back": 0.4,
    "redis_flushed": 0.5,
    "redis_restarted": 0.4,
    "redis_rolled_back": 0.4,
    "redis_full": 0.5,
}
"""What befalls the whole world: how many times in a run, on the average of all seeds."""

_WEIGHTS = (0.0, 0.0, 0.5, 1.0, 3.5)
"""Not every fault in every run: what one hides, another run without it shows. Their mean is one."""


class Dice:
    """Decides by the seed whether a fault strikes. Once `stop` is called, none does."""

    def __init__(self, random: Random, told: Callable[[str], None] | None = None) -> None:
        self.random = random
        self._told = told
        self.struck: Counter[str] = Counter()
        self._tables = {
            site: [(fault, share * random.choice(_WEIGHTS)) for fault, share in faults.items()]
            for site, faults in SITES.items()
        }
        self._totals = {site: sum(share for _, share in table) for site, table in self._tables.items()}
        self.events = {event: mean * random.choice(_WEIGHTS) for event, mean in EVENTS.items()}

    def roll(self, site: str) -> str:
        """The fault that strikes here now; empty where none does."""
        at = self.random.random()
        if at >= self._totals[site]:
            return ""
        for fault, share in self._tables[site]:
            at -= share
            if at < 0:
                self.struck[fault] += 1
                if self._told is not None:
                    self._told(f"FAULT   {fault}")
                return fault
        return ""

    def times(self, event: str) -> int:
        """How often an event is to happen in this run."""
        mean = self.events[event]
        return int(mean) + (self.random.random() < mean % 1)

    def stop(self) -> None:
        """No more faults."""
        self._totals = dict.fromkeys(self._totals, 0.0)
