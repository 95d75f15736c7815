"""Where a page ended, as text a caller can hand back but need not understand."""

import json

from datastore.interface import Document


def encode_cursor(last: Document) -> str:
    """A cursor that continues after `last`."""
    return json.dumps([last.partition_key, last.id])


def decode_cursor(cursor: str) -> tuple[str, str]:
    """(partition key, id) of the last document the caller has seen.

    Raises:
      ValueError: it did not come from `encode_cursor`.
    """
    try:
        seen = json.loads(cursor)
    except ValueError:
        seen = None
    match seen:
        case [str(partition_key), str(id_)]:
            return partition_key, id_
    raise ValueError("unknown cursor: pass on Page.cursor as it was, or None to start over")
