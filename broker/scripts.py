"""Lua scripts by digest, many in one round trip, sent whole only to a server that has forgotten them."""

import hashlib
from collections.abc import Sequence
from typing import Any, TypeAlias

from redis import Redis
from redis.exceptions import NoScriptError

Argument: TypeAlias = str | bytes | int | float


STANDS = """
-- Whether what was set for a while still stands. What lasts longer than it is ever given, or for ever, does not: broker
-- time was set back under it, or nobody of ours has written it.
local function stands(key, longest_ms)
  local left = redis.call('PTTL', key)
  return left >= 0 and left <= tonumber(longest_ms)
end
"""


FREES = "redis.call('DEL', 'broker:nothing') "
"""Before a script that is to be carried out in a full Redis, too: that lets one go on with any command behind one that
may free memory, whether or not there was any to free."""


class Script:
    """One Lua script. Every script here may run twice: what it does is a hint, or idempotent."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324  # Redis names scripts by SHA-1

    def run(self, connection: Redis, keys: Sequence[str | bytes], arguments: Sequence[Argument]) -> Any:
        """Run once, in one round trip."""
        try:
            return connection.evalsha(self.sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return connection.eval(self.text, len(keys), *keys, *arguments)

    def run_many(self, connection: Redis, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]) -> list[Any]:
        """Run once for each (keys, arguments), all in one round trip; results in that order."""
        with connection.pipeline(transaction=False) as pipe:
            for keys, arguments in calls:
                pipe.evalsha(self.sha, len(keys), *keys, *arguments)
            results = pipe.execute(raise_on_error=False)
        for index, result in enumerate(results):
            if isinstance(result, NoScriptError):
                results[index] = self.run(connection, *calls[index])
            elif isinstance(result, Exception):
                raise result
        return results
