"""Searched fields, kept beside the body: an index that looks into the body parses all of it, twice for each write.

Such a field has two columns: a value, and the rev it is the value of. Where that is the row's rev, its index takes the
value; elsewhere it looks into the body: in rows that an older release has written, or a process that was told of other
fields. So whoever writes need know nothing of what others search for, and no file must be converted.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

import msgspec
from msgspec import Raw

from datastore.matching import FIELD

Parameter: TypeAlias = str | int | float | None

_INTEGER_MAX: Final = 2**63 - 1
"""SQLite's largest integer; JSON numbers above it are compared as floating point."""


def json_path(field: str) -> str:
    """The SQL expression for a dotted path into the body.

    Raises:
      ValueError: `field` is no dotted path, and would be SQL of the caller's.
    """
    if FIELD.fullmatch(field) is None:
        raise ValueError(f"{field!r} is no dotted path of fields")
    path = "".join(f'."{step}"' for step in field.split("."))
    return f"json_extract(body, '${path}')"


def searched(field: str) -> str:
    """The same for an indexed field, in its index and in queries. Raises as `json_path`."""
    look_inside = json_path(field)
    value, rev = columns(field)
    return f'CASE WHEN "{rev}" = rev THEN "{value}" WHEN json_valid(body) THEN {look_inside} END'


def columns(field: str) -> tuple[str, str]:
    """The names of its two columns: the value, and the rev it is the value of. No body has a field of these names."""
    return f"body.{field}", f"body.{field} at"


def index(connection: sqlite3.Connection, fields: Sequence[str]) -> None:
    """Add what is missing of the columns and indexes of these fields, in the transaction that is open."""
    there = _columns(connection)
    indexes = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index'").fetchall())
    for field in dict.fromkeys(fields):
        for column in columns(field):
            if column not in there:
                connection.execute(f'ALTER TABLE documents ADD COLUMN "{column}"')
        expression, name = searched(field), f"by {field}"
        if expression in (indexes.get(name) or ""):
            continue
        connection.execute(f'DROP INDEX IF EXISTS "{name}"')  # an older release's, which looks into each body
        # The key columns come last: an equality search is then in page order already, without sorting. Documents
        # without the field stay out, and cost their writers nothing: no condition matches them anyway.
        parts = f"{expression}, partition_key, id"
        connection.execute(f'CREATE INDEX "{name}" ON documents ({parts}) WHERE {expression} IS NOT NULL')


def lacks_columns(connection: sqlite3.Connection, fields: Sequence[str]) -> bool:
    """Whether there is a table that `index` was not called for."""
    there = _columns(connection)
    return bool(there) and not there.issuperset(column for field in fields for column in columns(field))


def _columns(connection: sqlite3.Connection) -> set[str]:
    return {name for _, name, *_ in connection.execute("PRAGMA table_info(documents)")}


_BOUND: Final = frozenset({str, type(None)})
"""Types that are bound as they are."""


class Writing:
    """The statements that write a document and its searched fields, and what these are."""

    def __init__(self, fields: Sequence[str]) -> None:
        self._steps = [(first, further) for first, *further in (field.split(".") for field in dict.fromkeys(fields))]
        names = [columns(field) for field in dict.fromkeys(fields)]
        named = "".join(f', "{value}", "{rev}"' for value, rev in names)
        given = "".join(f", ?{number}, ?3" for number, _ in enumerate(names, 6))
        self.insert = (
            f"INSERT INTO documents (partition_key, id, rev, etag, body{named}) VALUES (?1, ?2, ?3, ?4, ?5{given})"  # noqa: S608
            " ON CONFLICT (partition_key, id) DO NOTHING"
        )
        """Of partition key, id, rev, etag, body and `values`."""
        put = "".join(f', "{value}" = ?{number}, "{rev}" = ?1' for number, (value, rev) in enumerate(names, 7))
        self.update = (
            f"UPDATE documents SET rev = ?1, etag = ?2, body = ?3{put}"  # noqa: S608
            " WHERE partition_key = ?4 AND id = ?5 AND etag = ?6"
        )
        """Of rev, etag and body, of partition key, id and etag as they were, and `values`."""

    def values(self, body: Mapping[str, Any]) -> list[Parameter]:
        """The searched fields of a body, of which each may still be text."""
        found: list[Parameter] = []
        for first, further in self._steps:
            value = body.get(first)
            found.append(value if not further and type(value) in _BOUND else _inside(value, further))
        return found


def _inside(value: Any, further: Sequence[str]) -> Parameter:
    if isinstance(value, Raw):
        value = msgspec.json.decode(value)
    for step in further:
        value = value.get(step) if isinstance(value, Mapping) else None
    return bindable(value)


def bindable(value: object) -> Parameter:
    """A JSON value as SQLite compares it; of objects and arrays nothing, which no condition matches."""
    if type(value) in _BOUND:
        return cast(str | None, value)
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, int):
        return value if isinstance(value, float) else None
    if abs(value) <= _INTEGER_MAX:
        return value
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
