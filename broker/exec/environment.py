"""What a command gets of the environment of the broker command that runs it: everything but secrets."""

from collections.abc import Mapping
from urllib.parse import unquote_plus, urlsplit

SECRETS = frozenset({"BROKER_REDIS_PASSWORD", "BROKER_COSMOS_KEY", "BROKER_SIGNING_SECRET", "BROKER_KEY"})
"""Variables that hold a secret themselves. Those that name a file of one (`BROKER_KEY_FILE`) are handed on: a command
that is a broker command too needs it, and who may read the file is decided by the file."""
URLS = frozenset({"BROKER_REDIS_URL", "BROKER_DATASTORE_URL"})
"""Variables that may hold a password; they are handed on without it."""

SECRET_QUERIES = frozenset({"password", "ssl_password", "key"})
"""Names of the query, as a client reads them: percent-decoded."""


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables a command may see."""
    return {
        name: _without_password(value) if name in URLS else value
        for name, value in environ.items()
        if name not in SECRETS
    }


def _without_password(url: str) -> str:
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        return ""
    asked = parts.query.split("&")
    kept = [each for each in asked if unquote_plus(each.partition("=")[0]) not in SECRET_QUERIES]
    if password is None and kept == asked:
        return url
    user, at, host = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    return parts._replace(netloc=f"{name}{at}{host}" if name else host, query="&".join(kept)).geturl()
