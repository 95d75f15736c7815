"""What redis-py lets pass in a URL, and stumbles over as it connects."""

import re
from typing import Any

_NAME = re.compile(r"argument '(\w+)'")


def require_known_options(pool: Any) -> None:
    """Do nothing where a connection of this pool can be made; none is opened. For pools of either kind.

    Raises:
      ValueError: the URL has an option that no connection knows.
    """
    try:
        pool.connection_class(**pool.connection_kwargs)
    except TypeError as error:
        name = _NAME.search(str(error))
        raise ValueError(f"Redis URL: there is no option {name[1] if name else error}") from error
