"""From a filter to SQL that never finds less: what it finds too much, `matching` drops."""

from collections.abc import Collection
from typing import Final, TypeAlias

from datastore.interface import AnyOf, AtLeast, AtMost, Condition, Filter
from datastore.sqlite_fields import Parameter, bindable, json_path, searched

Key: TypeAlias = tuple[str, str]
"""(partition key, id): the order of `find`."""
VALUES_MAX: Final = 16
"""Values of one condition that are searched one by one: each costs some microseconds. Of more, rows are sorted."""
_ROW: Final = "partition_key, id, rev, etag, body"
_KEY: Final = "partition_key, id"


def page_query(
    filter: Filter,
    limit: int,
    after: Key | None,
    *,
    indexes: Collection[str],
    until: Key | None = None,
    wary: bool = False,
    columns: str = _ROW,
) -> tuple[str, list[Parameter]]:
    """(SELECT of up to `limit` rows after `after` in key order, its parameters). `filter` was checked before.

    `until`: the last key that may be found. SQLite has no statistics here and prefers to walk all keys in page order.
    So one condition is chosen to lead, and a `+`, which means nothing but "use no index", is put before the others.
    Where it is one of several values, each is a search by itself, and these are merged. `wary`: whatever is no JSON is
    found, too; otherwise a search that looks at it fails.
    """
    leader = _leader(filter, indexes)
    # Behind an equality the index is in page order by itself; behind any other leader the rows are sorted.
    sign = "" if walks_keys(filter, indexes) else "+"
    selects: list[str] = []
    parameters: list[Parameter] = []
    for one in _by_value(filter, leader):
        clauses: list[str] = []
        for field, condition in one.items():
            expression = _expression(field, indexes)
            clause, values = _clause(expression if leader in (None, field) else f"+{expression}", condition)
            looks_inside = field not in ("partition_key", leader)  # the leader's values stand in its index
            clauses.append(f"CASE WHEN json_valid(body) THEN {clause} ELSE 1 END" if wary and looks_inside else clause)
            parameters += values
        for bound, key in ((">", after), ("<=", until)):
            if key is not None:
                clauses.append(f"({sign}partition_key, {sign}id) {bound} (?, ?)")
                parameters += key
        # Every part is a constant or comes from `json_path` or `searched`, which let nothing but field names through.
        selects.append(f"SELECT {columns} FROM documents WHERE {' AND '.join(clauses) or '1'}")  # noqa: S608
    sql = " UNION ALL ".join(selects)
    return f"{sql} ORDER BY {sign}partition_key, {sign}id LIMIT ?", [*parameters, limit]


def key_query(
    filter: Filter, limit: int, after: Key | None, *, indexes: Collection[str], until: Key | None = None
) -> tuple[str, list[Parameter]]:
    """The same for their keys alone, (partition key, id), as an index has them: no document is looked at. It finds what
    the leading condition does.
    """
    leader = _leader(filter, indexes)
    leading = {} if leader is None else {leader: filter[leader]}
    return page_query(leading, limit, after, indexes=indexes, until=until, columns=_KEY)


def window_query(
    filter: Filter, looks_max: int, after: Key | None, *, indexes: Collection[str]
) -> tuple[str, list[Parameter]] | None:
    """Keys in places `looks_max` and the next of those that a search goes through: where it may end, and whether there
    is more. None where it looks at nothing but what it finds, or at all that leads, which is sorted first.
    """
    leader = _leader(filter, indexes)
    if filter.keys() <= {leader} or not walks_keys(filter, indexes):
        return None
    sql, parameters = key_query(filter, 2, after, indexes=indexes)
    return f"{sql} OFFSET ?", [*parameters, looks_max - 1]


def walks_keys(filter: Filter, indexes: Collection[str]) -> bool:
    """Whether a search goes through keys in order, and so may end anywhere."""
    leading = filter.get(_leader(filter, indexes) or "")
    return not isinstance(leading, AtMost | AtLeast | AnyOf) or (isinstance(leading, AnyOf) and _is_few(leading))


def _by_value(filter: Filter, leader: str | None) -> list[Filter]:
    """The same filter; where it leads with one of several values, one for each."""
    leading = filter.get(leader or "")
    if leader is None or not isinstance(leading, AnyOf) or not _is_few(leading):
        return [filter]
    different = {bindable(value): value for value in leading.values}  # to SQLite: true is 1
    return [{**filter, leader: value} for value in different.values()]


def _is_few(condition: AnyOf) -> bool:
    return 0 < len(condition.values) <= VALUES_MAX and not any(map(_ends_early, condition.values))


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
    if any(map(_ends_early, values)):
        return f"{expression} IS NOT NULL", []
    if isinstance(condition, AnyOf):
        return f"{expression} IN ({', '.join('?' * len(values))})", [bindable(value) for value in values]
    return f"{expression} = ?", [bindable(condition)]


def _ends_early(value: object) -> bool:
    """SQLite's JSON ends a text at a null character."""
    return isinstance(value, str) and "\0" in value
