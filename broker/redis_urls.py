"""What redis-py lets pass in a URL, and stumbles over as it connects; and a URL as it may be shown."""

import re
from typing import Any
from urllib.parse import SplitResult, unquote_plus, urlsplit

from redis.exceptions import RedisError

_NAME = re.compile(r"argument '(\w+)'")
_SCHEME = re.compile(r"[a-z]+(?=://)")
SECRET_QUERIES = frozenset({"password", "ssl_password", "key"})
"""Names of the query, as a client reads them: percent-decoded."""


def require_known_options(pool: Any) -> None:
    """Do nothing where a connection of this pool can be made; none is opened. For pools of either kind.

    Raises:
      ValueError: the URL has an option that no connection knows, or with a value that it can't have.
    """
    try:
        pool.connection_class(**pool.connection_kwargs)
    except TypeError as error:
        name = _NAME.search(str(error))
        raise ValueError(f"Redis URL: there is no option {name[1] if name else error}") from error
    except (RedisError, AttributeError) as error:
        raise ValueError(f"Redis URL: an option has a value that it can't have: {error}") from error


def checked(url: str) -> str:
    """`url` itself, where its password can't be taken for a host, a port or a path, and be told in an error as one.

    Raises:
      ValueError: no host and port can be read from it. The message shows nothing of it.
    """
    _parts(url)
    return url


def without_password(url: str, instead: str = "") -> str:
    """A URL without the passwords in it, or with something `instead`; one that can't be read, without all it says."""
    try:
        parts = _parts(url)
    except ValueError:
        scheme = _SCHEME.match(url)
        return f"{scheme[0]}://{instead}" if scheme and instead else instead
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    secret = f":{instead}" if colon and instead else ""
    netloc = f"{name}{secret}{at}{host}" if name or secret else host
    query = "&".join(_query(parts.query, instead))
    if (netloc, query) == (parts.netloc, parts.query):
        return url
    # Not `geturl`: where no host is named it leaves out the slashes, and redis-py takes no such URL.
    return f"{parts.scheme}://{netloc}{parts.path}{'?' if query else ''}{query}"


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(_UNREADABLE) from None
    # redis-py decodes the host, too, and takes no notice of what comes before an @ that is not where it looks for one.
    names = [each.partition("=")[0] for each in parts.query.split("&")]
    hidden = parts.scheme in ("redis", "rediss") and "@" in "".join([parts.path, parts.fragment, *names])
    if hidden or ("%" in host and ":" not in host) or (parts.netloc == "" and "://" not in url):
        raise ValueError(_UNREADABLE)
    return parts


_UNREADABLE = (
    "no host and port can be read from the URL; in a name or password write / as %2F, ? as %3F, # as %23, @ as %40"
)


def _query(query: str, instead: str) -> list[str]:
    kept = []
    for each in query.split("&"):
        name = each.partition("=")[0]
        if unquote_plus(name) not in SECRET_QUERIES:
            kept.append(each)
        elif instead:
            kept.append(f"{name}={instead}")
    return kept
