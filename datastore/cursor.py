"""Where a page ended, as text a caller can hand back but need not understand."""

import json

import msgspec

from datastore.errors import UnknownCursor
from datastore.interface import Document

_PLACE = msgspec.json.Decoder(tuple[str, str])


def encode_cursor(last: Document) -> str:
    """A cursor that continues after `last`."""
    return cursor_after((last.partition_key, last.id))


def cursor_after(key: tuple[str, str]) -> str:
    """The same for its (partition key, id)."""
    return json.dumps(key)


def decode_cursor(cursor: str) -> tuple[str, str]:
    """(partition key, id) of the last document that was looked at.

    Raises:
      UnknownCursor: it did not come from here.
    """
    try:
        return _PLACE.decode(cursor)
    except msgspec.MsgspecError:
        raise UnknownCursor("unknown cursor: pass on Page.cursor as it was, or None to start over") from None
