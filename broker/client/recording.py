"""Whether a client writes its history down, and where; off, it costs nothing, and nothing is loaded for it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from broker.client.call import Address
from broker.client.errors import InvalidRequest

if TYPE_CHECKING:
    from broker.history import Recorder

VARIABLE = "BROKER_HISTORY"
"""Names a file, or an existing folder in which each client keeps a file of its own. Unset: nothing is recorded."""


def recorder(
    given: str | os.PathLike[str] | None, address: Address, environ: Mapping[str, str] = os.environ
) -> "Recorder | None":
    """What records the calls of the client at `address`: into `given`, else into what the variable names.

    Raises:
      InvalidRequest: nothing can be written there.
    """
    named = given or environ.get(VARIABLE)
    if not named:
        return None
    from broker.history.recorder import open_recorder

    try:
        return open_recorder(Path(named), address)
    except OSError as error:
        raise InvalidRequest(f"the history can't be written: {error}; correct {VARIABLE}, or unset it") from error
