"""Whether a file's trouble is that its disk is full. SQLite says so of a write; else it says "disk I/O error"."""

import os
from errno import ENOSPC
from typing import Final

MAKE_ROOM: Final = "; make room on its disk"
_LEAST_BYTES: Final = 32 * 1024
"""What SQLite needs at once to open a file that nobody has open: for the index of its log."""


def way_out(path: str, error: Exception) -> str:
    """What to do about an error that a full disk has caused, to be put behind its text; of any other nothing."""
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL" or getattr(error, "errno", None) == ENOSPC:
        return MAKE_ROOM
    return MAKE_ROOM if name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")) and _is_full(path) else ""


def _is_full(path: str) -> bool:
    try:
        found = os.statvfs(os.path.dirname(path))
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < _LEAST_BYTES
