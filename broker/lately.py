"""What a worker has told Redis a moment ago: values that are only shown need not be told again with each batch."""

from collections.abc import Hashable, Iterable
from typing import TypeVar

EVERY_MS = 1_000
"""How old such a value may become while its subject goes on."""
NAMES_MAX = 10_000
"""Names kept; with more all are forgotten, and told once more."""

_Name = TypeVar("_Name", bound=Hashable)


class Lately:
    """When each name was last told of, as of broker time. For one worker's loop: not safe under threads."""

    def __init__(self) -> None:
        self._told_ms: dict[Hashable, int] = {}

    def news(self, names: Iterable[_Name], now_ms: int) -> dict[_Name, int]:
        """Those of `names` that are to be told now, with the time."""
        told_ms = self._told_ms
        never = now_ms - EVERY_MS
        # Told later than now: the clock was set back since.
        news = {name: now_ms for name in names if not never < told_ms.get(name, never) <= now_ms}
        if news:
            if len(told_ms) > NAMES_MAX:
                told_ms.clear()
            told_ms.update(news.items())
        return news
