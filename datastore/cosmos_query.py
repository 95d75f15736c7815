"""Filters as Cosmos SQL, parameterised, so that no value is ever part of the query text."""

from dataclasses import dataclass, field

from datastore.cursor import decode_cursor
from datastore.interface import AnyOf, AtLeast, AtMost, Filter

Scalar = str | int | float | bool


@dataclass(slots=True)
class Query:
    """A query under construction: `sql` is its text, `parameters` what the SDK binds."""

    clauses: list[str] = field(default_factory=list)
    parameters: list[dict[str, object]] = field(default_factory=list)
    order: str = ""

    @property
    def sql(self) -> str:
        where = f" WHERE {' AND '.join(self.clauses)}" if self.clauses else ""
        return f"SELECT * FROM c{where} ORDER BY {self.order}"  # noqa: S608  # values are bound, paths are checked

    def bind(self, value: Scalar) -> str:
        """A name that stands for `value` in the text."""
        name = f"@p{len(self.parameters)}"
        self.parameters.append({"name": name, "value": value})
        return name


def build_query(filter: Filter, cursor: str | None) -> Query:
    """The query for a filter that `check_query` has passed, continuing after `cursor`.

    One partition is ordered by id. All of them are ordered by (pk, id), for which the service wants a
    composite index; `ensure_container` makes it. The partition key stands in the text as well as in the
    request's header, because some emulators insist on it.

    Raises:
      UnknownCursor: the cursor is not one of ours.
    """
    query = Query()
    for path, condition in filter.items():
        target = "c.pk" if path == "partition_key" else "c" + "".join(f'["{step}"]' for step in path.split("."))
        match condition:
            case AtMost(limit):
                query.clauses.append(f"{target} <= {query.bind(limit)}")
            case AtLeast(limit):
                query.clauses.append(f"{target} >= {query.bind(limit)}")
            case AnyOf(()):
                query.clauses.append("false")
            case AnyOf(values):
                query.clauses.append(f"{target} IN ({', '.join(query.bind(value) for value in values)})")
            case value:
                query.clauses.append(f"{target} = {query.bind(value)}")
    if cursor is not None:
        last_pk, last_id = (query.bind(part) for part in decode_cursor(cursor))
        query.clauses.append(f"(c.pk > {last_pk} OR (c.pk = {last_pk} AND c.id > {last_id}))")
    query.order = "c.id" if "partition_key" in filter else "c.pk, c.id"
    return query
