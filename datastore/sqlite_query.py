"""From a filter to SQL that never finds less: what it finds too much, `matching` drops."""

from typing import Final

from datastore.interface import AnyOf, AtMost, Condition, Filter
from datastore.matching import FIELD

_INTEGER_MAX: Final = 2**63 - 1
"""SQLite's largest integer; JSON numbers above it are compared as floating point."""

Parameter = str | int | float


def json_path(field: str) -> str:
    """The SQL expression for a dotted path; the same text in indexes and queries, or no index is used.

    Raises:
      ValueError: `field` is no dotted path, and would be SQL of the caller's.
    """
    if FIELD.fullmatch(field) is None:
        raise ValueError(f"{field!r} is no dotted path of fields")
    path = "".join(f'."{step}"' for step in field.split("."))
    return f"json_extract(body, '${path}')"


def page_query(filter: Filter, limit: int, after: tuple[str, str] | None) -> tuple[str, list[Parameter]]:
    """(SELECT of up to `limit` rows after `after` in key order, its parameters). `filter` was checked before."""
    clauses: list[str] = []
    parameters: list[Parameter] = []
    for field, condition in filter.items():
        expression = "partition_key" if field == "partition_key" else json_path(field)
        clause, values = _clause(expression, condition)
        clauses.append(clause)
        parameters += values
    if after is not None:
        clauses.append("(partition_key, id) > (?, ?)")
        parameters += after
    where = " AND ".join(clauses) or "1"
    # Every part is a constant or comes from `json_path`, which lets nothing but field names through.
    sql = f"SELECT partition_key, id, rev, etag, body FROM documents WHERE {where} ORDER BY partition_key, id LIMIT ?"  # noqa: S608
    return sql, [*parameters, limit]


def _clause(expression: str, condition: Condition) -> tuple[str, list[Parameter]]:
    match condition:
        case AtMost(limit):
            return f"{expression} <= ?", [_bindable(limit)]
        case AnyOf(values):
            return f"{expression} IN ({', '.join('?' * len(values))})", [_bindable(value) for value in values]
        case _:
            return f"{expression} = ?", [_bindable(condition)]


def _bindable(value: str | int | float) -> Parameter:
    if not isinstance(value, int) or abs(value) <= _INTEGER_MAX:
        return value
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
