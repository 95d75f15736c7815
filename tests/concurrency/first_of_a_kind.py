"""Threads that read the first value of a struct together, in a process of their own, since it may end by SIGSEGV.

Its argument says what reads: `decoded`, the product's, or `msgspec`, its twin, that asks msgspec itself.
"""

import sys
from collections.abc import Callable, Mapping
from threading import Barrier, Thread
from typing import Any

import msgspec

from datastore.json_body import JsonBody, decoded, encode

KINDS = 60
THREADS = 8
BODY: Mapping[str, Any] = {"first": "x", "parts": [{"count": 1}], "last": {"count": 2, "name": "y"}}


def a_new_kind() -> type[msgspec.Struct]:
    """A struct of other structs that nobody has asked for yet."""
    part: Any = msgspec.defstruct("Part", [("count", int, 0), ("name", str | None, None), ("more", dict[str, int], {})])
    return msgspec.defstruct("Whole", [("first", str), ("parts", tuple[part, ...], ()), ("last", part | None, None)])


def by_the_product(kind: type[msgspec.Struct], number: int) -> object:
    """Half of the threads read a stored text, the others what the memory store keeps."""
    return decoded(JsonBody(encode(BODY)) if number % 2 else BODY, kind)


def by_msgspec(kind: type[msgspec.Struct], number: int) -> object:
    """The twin."""
    return msgspec.json.decode(encode(BODY), type=kind) if number % 2 else msgspec.convert(BODY, kind)


def read_together(kind: type[msgspec.Struct], read: Callable[[type[msgspec.Struct], int], object]) -> list[object]:
    """What each of the threads has read."""
    start, found = Barrier(THREADS), list[object]()

    def one(number: int) -> None:
        start.wait()
        found.append(read(kind, number))

    threads = [Thread(target=one, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


if __name__ == "__main__":
    sys.setswitchinterval(1e-6)
    reads = {"decoded": by_the_product, "msgspec": by_msgspec}[sys.argv[1]]
    for _ in range(KINDS):
        values = read_together(a_new_kind(), reads)
        assert [encode({"read": value}) for value in values] == [encode({"read": values[0]})] * THREADS
