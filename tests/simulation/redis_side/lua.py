"""Runs the production scripts' own text, each compiled once; `redis.call` leads to a simulated server."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from lupa import lua51
from redis.exceptions import ResponseError

from tests.simulation.redis_side.keyspace import Status
from tests.simulation.redis_side.sorted_commands import Scored

Call: TypeAlias = Callable[[list[bytes]], Any]


class Lua:
    """One Lua 5.1 runtime, as in a server, for any number of simulated servers."""

    def __init__(self) -> None:
        # Any: what it is given and gives is bytes, of which its types know nothing.
        self._runtime: Any = lua51.LuaRuntime(encoding=None, register_eval=False, register_builtins=False)
        self._compiled: dict[bytes, Any] = {}
        self._call: Call | None = None
        globals_ = self._runtime.globals()
        globals_[b"redis"] = self._runtime.table_from({b"call": self._redis_call})
        globals_[b"cjson"] = self._runtime.table_from({b"decode": self._decode, b"encode": self._encode})

    def run(self, text: bytes, keys: Sequence[bytes], arguments: Sequence[bytes], call: Call) -> Any:
        """The reply of a script."""
        function = self._compiled.get(text)
        if function is None:
            function = self._compiled[text] = self._runtime.eval(b"function(KEYS, ARGV)\n" + text + b"\nend")
        table = self._runtime.table_from
        self._call = call
        try:
            return self._from_lua(function(table(keys), table(arguments)))
        except lua51.LuaError as error:
            raise ResponseError(f"ERR in script: {error}") from error
        finally:
            self._call = None

    def _redis_call(self, *arguments: Any) -> Any:
        assert self._call is not None, "only a script calls"
        return self._to_lua(self._call([as_text(argument) for argument in arguments]))

    def _to_lua(self, value: Any) -> Any:
        """A reply as Lua sees it: no nil but false, numbers of sorted sets as text, pairs one after the other."""
        if value is None:
            return False
        if type(value) is Status:
            return self._runtime.table_from({b"ok": bytes(value)})
        if isinstance(value, list):
            flat = [part for each in value for part in (each if type(each) is Scored else (each,))]
            return self._runtime.table_from([self._to_lua(each) for each in flat])
        return as_text(value) if isinstance(value, float) else value

    def _from_lua(self, value: Any) -> Any:
        if value is None or value is False:
            return None
        if value is True:
            return 1
        if isinstance(value, float):
            return int(value)
        if lua51.lua_type(value) == "table":
            found: list[Any] = []
            while (each := value[len(found) + 1]) is not None:
                found.append(self._from_lua(each))
            return found
        return value

    def _decode(self, text: bytes) -> Any:
        return self._table_of(json.loads(text))

    def _table_of(self, value: Any) -> Any:
        if isinstance(value, dict):
            return self._runtime.table_from({name.encode(): self._table_of(each) for name, each in value.items()})
        if isinstance(value, list):
            return self._runtime.table_from([self._table_of(each) for each in value])
        return value.encode() if isinstance(value, str) else value

    def _encode(self, table: Any) -> bytes:
        return json.dumps(self._plain(table), separators=(",", ":")).encode()

    def _plain(self, value: Any) -> Any:
        if lua51.lua_type(value) == "table":
            return {name.decode(): self._plain(each) for name, each in value.items()}
        return value.decode() if isinstance(value, bytes) else value


def as_text(value: Any) -> bytes:
    """An argument as the server sees it. Numbers of Lua as Redis writes them."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, float):
        return f"{value:.17g}".encode()
    return str(value).encode()
