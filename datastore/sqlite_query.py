"""From a filter to SQL that never finds less: what it finds too much, `matching` drops."""

from collections.abc import Collection
from typing import Final

from datastore.interface import AnyOf, AtLeast, AtMost, Condition, Filter
from datastore.sqlite_fields import Parameter, bindable, json_path, searched

_ROW: Final = "partition_key, id, rev, etag, body"
_KEY: Final = "partition_key, id"


def page_query(
    filter: Filter,
    limit: int,
    after: tuple[str, str] | None,
    *,
    indexes: Collection[str],
    wary: bool = False,
    columns: str = _ROW,
) -> tuple[str, list[Parameter]]:
    """(SELECT of up to `limit` rows after `after` in key order, its parameters). `filter` was checked before.

    SQLite has no statistics here and prefers to walk all keys in page order. So one condition is chosen to lead,
    and a `+`, which means nothing but "use no index", is put before the others. `wary`: whatever is no JSON is found,
    too; otherwise a search that looks at it fails.
    """
    leader = _leader(filter, indexes)
    clauses: list[str] = []
    parameters: list[Parameter] = []
    for field, condition in filter.items():
        expression = _expression(field, indexes)
        clause, values = _clause(expression if leader in (None, field) else f"+{expression}", condition)
        looks_inside = field not in ("partition_key", leader)  # the leader's values stand in its index
        clauses.append(f"CASE WHEN json_valid(body) THEN {clause} ELSE 1 END" if wary and looks_inside else clause)
        parameters += values
    # Behind an equality the index is in page order by itself; behind any other leader the rows are sorted.
    sign = "+" if isinstance(filter.get(leader or ""), AtMost | AtLeast | AnyOf) else ""
    if after is not None:
        clauses.append(f"({sign}partition_key, {sign}id) > (?, ?)")
        parameters += after
    where = " AND ".join(clauses) or "1"
    # Every part is a constant or comes from `json_path` or `searched`, which let nothing but field names through.
    sql = f"SELECT {columns} FROM documents WHERE {where} "  # noqa: S608
    return f"{sql}ORDER BY {sign}partition_key, {sign}id LIMIT ?", [*parameters, limit]


def key_query(
    filter: Filter, limit: int, after: tuple[str, str] | None, *, indexes: Collection[str]
) -> tuple[str, list[Parameter]]:
    """The same for their keys alone, (partition key, id), as an index has them: no document is looked at. It finds what
    the leading condition does.
    """
    leader = _leader(filter, indexes)
    leading = {} if leader is None else {leader: filter[leader]}
    return page_query(leading, limit, after, indexes=indexes, columns=_KEY)


def _expression(field: str, indexes: Collection[str]) -> str:
    if field == "partition_key":
        return field
    return searched(field) if field in indexes else json_path(field)


def _leader(filter: Filter, indexes: Collection[str]) -> str | None:
    """The condition that narrows most: a partition, then what is due, then one value, then one of several."""
    if "partition_key" in filter:
        return "partition_key"
    indexed = [field for field in filter if field in indexes]
    rank: dict[type, int] = {AtMost: 0, AtLeast: 0, AnyOf: 2}
    return min(indexed, key=lambda field: rank.get(type(filter[field]), 1), default=None)


def _clause(expression: str, condition: Condition) -> tuple[str, list[Parameter]]:
    if isinstance(condition, AtMost):
        return f"{expression} <= ?", [bindable(condition.limit)]
    if isinstance(condition, AtLeast):
        return f"{expression} >= ?", [bindable(condition.limit)]
    values = condition.values if isinstance(condition, AnyOf) else (condition,)
    if any(isinstance(value, str) and "\0" in value for value in values):
        return f"{expression} IS NOT NULL", []  # SQLite's JSON ends a text at a null character
    if isinstance(condition, AnyOf):
        return f"{expression} IN ({', '.join('?' * len(values))})", [bindable(value) for value in values]
    return f"{expression} = ?", [bindable(condition)]
