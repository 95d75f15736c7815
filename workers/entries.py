"""What stands in an in-flight list: entries of either wire, and the request in each, or why there is none."""

import re
import zlib
from collections.abc import Iterable
from typing import Any

import pydantic_core

from broker.json_names import stands_twice
from broker.messages import ENVELOPE_BYTES_MAX
from broker.parsing import without_tokens
from broker.queues import SETTLE, Wire
from datastore.value import Value

INTAKE_BYTES_MAX = ENVELOPE_BYTES_MAX + 1_024
"""An envelope and its signature."""
RQ_DATA_BYTES_MAX = 2 * ENVELOPE_BYTES_MAX + 1_024
"""What is signed is a string in the JSON of an rq job: its quotes and backslashes take two bytes each there."""
ID_BYTES_MAX = 256


def once_key(mac: str) -> str:
    """Marks a signed request that was taken, by its MAC, until it is past its deadline."""
    return f"broker:once:{mac}"


class NotOurs(Exception):
    """An entry that is not a request this broker settles. It goes to the dead-letter list."""


class Entry(Value, frozen=True):
    """One entry of an in-flight list, as taken."""

    wire: Wire
    key: bytes
    """What stands in the list: the id of the rq job, or the envelope itself."""
    data: bytes
    """The rq job's data, or the envelope."""
    result_ttl_s: int = 0
    """How long a plain rq client wants its result kept; 0: not at all."""
    problem: str = ""
    """Why it must not be settled, where that is known already."""
    insist: bool = False
    """Taken over from a dead worker, or from this one's own past."""
    slot: int = 0
    """Of the worker's in-flight lists, the one it stands in."""

    def envelope(self) -> bytes:
        """The text of the request in it, for the door.

        Raises:
          NotOurs: another function, a callback, a compressed bomb: nothing for this broker.
        """
        if self.problem:
            raise NotOurs(self.problem)
        return self.data if self.wire == "intake" else _argument(self.data)


def entries(taken: Iterable[Any], *, slot: int, insist: bool = False) -> tuple[Entry, ...]:
    """What a script has put into `taken`: an envelope of the intake as it is, an rq job in four parts."""
    return tuple(
        [
            Entry("intake", each, each, 0, "", insist, slot)
            if type(each) is bytes
            else Entry("rq", each[0], each[1], _seconds(each[2]), each[3].decode(), insist, slot)
            for each in taken
        ]
    )


def _seconds(text: bytes) -> int:
    """rq writes an empty field where nothing was asked, which means its default of 500 s."""
    if text == b"0":  # as our own clients ask
        return 0
    if not text:
        return 500
    return int(text) if re.fullmatch(rb"-?\d{1,9}", text) else 0


_HEAD, _TAIL = f'["{SETTLE}",null,['.encode(), b"],{}]"


def _argument(data: bytes) -> bytes:
    """The envelope in an rq job's data: the one argument of the one function.

    Raises:
      NotOurs: anything else.
    """
    if not data.startswith(b"["):
        data = _inflated(data)
    if data.startswith(_HEAD) and data.endswith(_TAIL):  # as our own clients write it: no second parse
        return data[len(_HEAD) : -len(_TAIL)]
    try:
        call = pydantic_core.from_json(data)
    except ValueError as error:
        raise NotOurs("the data of the rq job is not JSON: use serializer=JSONSerializer") from error
    if stands_twice(data, names=0):
        raise NotOurs("a name stands twice in one object of the data of the rq job")
    match call:
        case [str(function), None, [argument], dict(options)] if function == SETTLE and not options:
            return pydantic_core.to_json(argument)
        case [str(function), *_] if function != SETTLE:
            raise NotOurs(f"foreign function {without_tokens(function)[:100]!r}: only {SETTLE} is run here")
        case _:
            raise NotOurs(f"{SETTLE} takes one argument, the envelope")


def _inflated(data: bytes) -> bytes:
    """What rq compressed, as long as it stays within the limit of an envelope."""
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(data, RQ_DATA_BYTES_MAX)
    except zlib.error as error:
        raise NotOurs("the data of the rq job is neither JSON nor compressed JSON") from error
    if inflater.unconsumed_tail or not inflater.eof:
        raise NotOurs("oversized: the data of the rq job unpacks to more than an envelope may have")
    return text
