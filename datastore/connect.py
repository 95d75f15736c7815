"""From a URL to a store, so that which provider runs is configuration."""

from collections.abc import Sequence
from urllib.parse import unquote

from datastore.interface import Datastore, OnTrouble
from datastore.memory import MemoryDatastore


def connect(
    url: str,
    *,
    indexes: Sequence[str] = (),
    searched: Sequence[str] | None = None,
    cosmos_key: str | None = None,
    create: bool = True,
    on_trouble: OnTrouble | None = None,
) -> Datastore:
    """Open the store that `url` names: `memory://`, `sqlite:///path` or `cosmos://…`.

    `sqlite:///jobs.db` is relative to the working directory, `sqlite:////var/lib/jobs.db` absolute; `%20` is a
    space. `memory://` is a new, empty store at each call: to share one, pass it on. `indexes` are dotted paths
    that `find` will filter by; SQLite and memory index them. `searched` are all that it will ever filter by: a Cosmos
    container that is made here indexes these and no others; None: everything. `cosmos_key` is the account key, which
    never stands in a URL; without it Entra is asked. `create`: whether a missing SQLite file is made, in a folder that
    is there; of Cosmos, `create=1` in the URL says it. `on_trouble` is told what someone has to look at; only Cosmos
    has something to tell.

    Raises:
      ValueError: no such scheme, or a URL that does not fit it.
      Rejected: the Cosmos account or its credential can't be used.
      Denied: the Cosmos account does not let us in, or has no such container.
      Missing: there is no such SQLite file, or no folder for it.
      Unavailable: the store can't be opened now.
      Corrupt: the file is not a store of ours.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "memory":
        if rest:
            raise ValueError("memory:// takes no path: nothing is kept after the process")
        return MemoryDatastore(indexes=indexes)
    if separator and scheme == "sqlite":
        # Late, so that a Python without SQLite can still use the others.
        from datastore.sqlite import SqliteDatastore

        return SqliteDatastore(_sqlite_path(rest), indexes=indexes, create=create)
    if separator and scheme == "cosmos":
        # Late, so that the other stores work without loading the Azure SDK.
        from datastore.cosmos import CosmosDatastore

        return CosmosDatastore.from_url(url, key=cosmos_key, on_trouble=on_trouble, searched=searched)
    raise ValueError(f"unknown datastore scheme {scheme!r}: use memory://, sqlite:///path or cosmos://…")


def file_of(url: str) -> str | None:
    """The file of a SQLite store; None of any other.

    Raises:
      ValueError: the URL does not fit.
    """
    scheme, separator, rest = url.partition("://")
    return _sqlite_path(rest) if separator and scheme == "sqlite" else None


def _sqlite_path(rest: str) -> str:
    path = unquote(rest[1:])
    if not rest.startswith("/") or not path or "\0" in path:
        raise ValueError("a SQLite URL is sqlite:///relative/path or sqlite:////absolute/path (three or four slashes)")
    return path
