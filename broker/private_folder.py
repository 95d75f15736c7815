"""Whether a state folder is this user's alone: what is read in another's would be obeyed, and be sent the password."""

import os
from pathlib import Path


class NotPrivate(Exception):
    """Somebody else may have written what is in a state folder, or may read it."""


def is_private(folder: Path) -> bool:
    """Whether nobody else can look into it; False only of an empty one.

    Raises:
      NotPrivate: it belongs to somebody else, or is in use and open to others.
      OSError: it is missing, or can't be looked at.
    """
    found = folder.stat()
    if found.st_uid != os.geteuid():
        raise NotPrivate(f"{folder} belongs to another user; give a folder of your own with --state-dir")
    if not found.st_mode & 0o077:
        return True
    if any(folder.iterdir()):  # not ours to change: it may be a home, or /tmp
        raise NotPrivate(
            f"{folder} holds files and is open to others; chmod 700 it where it is the broker's alone, or "
            "give a folder of its own with --state-dir"
        )
    return False
