"""Keys with their values and times to live, and the errors a server answers with."""

import pickle
from collections.abc import Callable
from operator import itemgetter
from typing import Any, TypeAlias, TypeVar

from redis.exceptions import ResponseError

Value: TypeAlias = "bytes | list[bytes] | dict[bytes, bytes] | SetOf | Sorted | Stream"
T = TypeVar("T", bytes, "list[bytes]", "dict[bytes, bytes]", "SetOf", "Sorted", "Stream")


class SetOf(dict[bytes, None]):
    """A set of members; in the order they came, which no caller may rely on."""


class Sorted(dict[bytes, float]):
    """A sorted set: member to score."""

    def ordered(self) -> list[tuple[bytes, float]]:
        """By score, then by member."""
        return sorted(self.items(), key=rank)


rank = itemgetter(1, 0)
"""Of a member with its score: by score, then by member."""


class Stream(list[tuple[bytes, dict[bytes, bytes]]]):
    """Entries with their ids."""


class Status(bytes):
    """A status reply, which Lua sees as a table with `ok`."""


OK = Status(b"OK")
NO_TYPE = Status(b"none")
TYPES: dict[type, Status] = {
    bytes: Status(b"string"),
    list: Status(b"list"),
    dict: Status(b"hash"),
    SetOf: Status(b"set"),
    Sorted: Status(b"zset"),
    Stream: Status(b"stream"),
}


class Keyspace:
    """One database. A key whose time is over is gone when it is next looked at."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.now_ms = now_ms
        self._values: dict[bytes, Any] = {}
        self._ends_ms: dict[bytes, int] = {}

    def get(self, key: bytes, kind: type[T]) -> T | None:
        """The value of this kind, or None.

        Raises:
          ResponseError: there is one of another kind.
        """
        value = self._values.get(key)
        if value is None:  # as mostly
            return None
        if key in self._ends_ms:
            value = self.peek(key)
        if type(value) is not kind and value is not None:
            raise ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
        return value

    def made(self, key: bytes, kind: type[T]) -> T:
        """The value of this kind; an empty one where there was none."""
        value = self._values.get(key)
        if type(value) is kind and key not in self._ends_ms:  # as mostly
            return value
        value = self.get(key, kind)
        if value is None:
            value = self._values[key] = kind()
        return value

    def peek(self, key: bytes) -> Any:
        """Whatever there is, or None."""
        value = self._values.get(key)
        if value is None:  # as mostly
            return None
        ends_ms = self._ends_ms.get(key)
        if ends_ms is None or self.now_ms() < ends_ms:
            return value
        self.drop(key)
        return None

    def put(self, key: bytes, value: Any, *, ends_ms: int | None = None) -> None:
        """Replace a value, and when it ends."""
        self._values[key] = value
        self._ends_ms.pop(key, None)
        if ends_ms is not None:
            self._ends_ms[key] = ends_ms

    def expire(self, key: bytes, after_ms: int) -> bool:
        """Let a key end later. False: there is none."""
        if self.peek(key) is None:
            return False
        self._ends_ms[key] = self.now_ms() + after_ms
        return True

    def left_ms(self, key: bytes) -> int:
        """How long a key stands still; -1 for ever, -2 where there is none."""
        if self.peek(key) is None:
            return -2
        return self._ends_ms[key] - self.now_ms() if key in self._ends_ms else -1

    def drop(self, key: bytes) -> bool:
        """Remove a key. False: there was none."""
        self._ends_ms.pop(key, None)
        return self._values.pop(key, None) is not None

    def tidy(self, key: bytes) -> None:
        """A collection without members is no key."""
        if not self._values.get(key, True):
            self.drop(key)

    def names(self) -> list[bytes]:
        """All that stand now."""
        ends_ms = self._ends_ms
        return [key for key in list(self._values) if key not in ends_ms or self.peek(key) is not None]

    def clear(self) -> None:
        """Lose everything."""
        self._values.clear()
        self._ends_ms.clear()

    def snapshot(self) -> bytes:
        """What a replica has got so far."""
        return pickle.dumps((self._values, self._ends_ms))

    def restore(self, snapshot: bytes) -> None:
        """Continue from what a replica had."""
        self._values, self._ends_ms = pickle.loads(snapshot)  # noqa: S301  # our own, from this process
