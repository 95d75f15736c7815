"""Pages of a SQLite file that a bad disk has damaged."""

import re
from pathlib import Path

PAGE_BYTES = 4_096


def damage(path: Path, *, where: bytes) -> None:
    """Make SQLite unable to go on from any page on which `where` stands whole."""
    pages = {found.start() // PAGE_BYTES for found in re.finditer(re.escape(where), path.read_bytes())}
    assert pages
    with path.open("r+b") as file:
        for page in pages:
            file.seek(page * PAGE_BYTES)
            file.write(b"\xff" * 4)
