"""What a command gets of the environment of the broker command that runs it: everything but secrets."""

import sys
from collections.abc import Mapping

from broker.redis_urls import without_password

SECRETS = frozenset({"BROKER_REDIS_PASSWORD", "BROKER_COSMOS_KEY", "BROKER_SIGNING_SECRET", "BROKER_KEY"})
"""Variables that hold a secret themselves. Those that name a file of one (`BROKER_KEY_FILE`) are handed on: a command
that is a broker command too needs it, and who may read the file is decided by the file."""
URLS = frozenset({"BROKER_REDIS_URL", "BROKER_DATASTORE_URL"})
"""Variables that may hold a password; they are handed on without it."""


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables a command may see. Their case says nothing: `broker_key` is read as a setting too."""
    return {
        name: without_password(value) if name.upper() in URLS else value
        for name, value in environ.items()
        if name.upper() not in SECRETS
    }


_PR_SET_DUMPABLE = 4  # linux/prctl.h


def keep_secrets() -> None:
    """Let nobody but root read this process's memory, or the environment that it was started with.

    Whatever runs as the same user could otherwise: its own key, its password, the tokens of its leases. Linux only;
    there it writes no core file either.
    """
    if sys.platform == "linux":
        import ctypes  # of what the command line loads nothing else needs it

        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
