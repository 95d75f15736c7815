"""`BROKER_*` variables that nobody reads, but that are much like one that is read."""

from collections.abc import Iterable, Iterator

from broker.settings import PREFIX, Settings

ALIKE = 0.85
"""How much a variable that nobody reads must be like one that is read, from 0 to 1, to be taken for it misspelt."""
NO_SETTINGS = frozenset(
    f"{PREFIX}{name}" for name in ("HISTORY", "JOB_ID", "LEASE_EPOCH", "LEASE_TOKEN", "QUEUE", "ATTEMPT")
)
"""What clients read, and what `exec` sets for its command."""
_SETTINGS = tuple(f"{PREFIX}{name.upper()}{file}" for name in Settings.model_fields for file in ("", "_FILE"))
KNOWN = frozenset({*_SETTINGS, *NO_SETTINGS})


def misspelt(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Of these names each that is taken for a misspelt one, and what was meant."""
    for name in sorted(names):
        if name.startswith(PREFIX) and name not in KNOWN:
            from difflib import get_close_matches  # mostly not needed, and a start is to be quick

            for meant in get_close_matches(name, _SETTINGS, 1, ALIKE):
                yield name, meant
