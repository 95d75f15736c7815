"""Runs the production scripts' own text, each compiled once; `redis.call` leads to a simulated server."""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec
from lupa import lua51
from redis.exceptions import ResponseError

from tests.simulation.redis_side.keyspace import Status
from tests.simulation.redis_side.sorted_commands import Scored

Call: TypeAlias = Callable[[bytes, Sequence[bytes]], Any]
"""Carries out one command, its name apart."""

_AS_IT_IS = frozenset({bytes, int, bool})
"""What Lua sees as Python does."""
_all_texts = frozenset({bytes}).issuperset
_all_as_they_are = _AS_IT_IS.issuperset
"""Of the types of some values: mostly there is nothing to convert, and this takes no step of Python for each."""
_LISTED = b"function(table) return #table, unpack(table) end"
_TABLE = b"function(...) return {...} end"
_RECORD = b"""function(...)
  local record, parts = {}, {...}
  for i = 1, select('#', ...), 2 do record[parts[i]] = parts[i + 1] end
  return record
end"""
_SCRIPT = b"""
local function script(KEYS, ARGV)
%s
end
return function(keys, ...)
  local reply = script({unpack({...}, 1, keys)}, {select(keys + 1, ...)})
  if type(reply) == 'table' then return true, #reply, unpack(reply) end
  return reply
end
"""
"""A script as one function of how many keys it is given, the keys and the arguments. Its reply comes with what stands
in it, since each step into Lua and back takes as long as a simulated command."""


class Lua:
    """One Lua 5.1 runtime, as in a server, for any number of simulated servers."""

    def __init__(self) -> None:
        # Any: what it is given and gives is bytes, of which its types know nothing.
        self._runtime: Any = lua51.LuaRuntime(encoding=None, register_eval=False, register_builtins=False)
        self._compiled: dict[bytes, Any] = {}
        self._listed = self._runtime.eval(_LISTED)
        self._table = self._runtime.eval(_TABLE)
        """Of what stands in a list. Its own `table_from` asks first what kind of collection each one is."""
        self._record = self._runtime.eval(_RECORD)
        self._statuses: dict[Status, Any] = {}
        """Tables that a status reply is; no script changes one."""
        self._call: Call = _nobody
        """Who carries out what the script calls that runs."""
        globals_ = self._runtime.globals()
        globals_[b"redis"] = self._runtime.table_from(
            {b"call": self._redis_call, b"pcall": self._redis_pcall, b"sha1hex": _sha1hex}
        )
        globals_[b"cjson"] = self._runtime.table_from({b"decode": self._decode, b"encode": self._encode})

    def run(self, text: bytes, keys: int, texts: Sequence[bytes], call: Call) -> Any:
        """The reply of a script. Of `texts` the first ones are its `keys`, the others its arguments."""
        function = self._compiled.get(text)
        if function is None:
            function = self._compiled[text] = self._runtime.execute(_SCRIPT % text)
        self._call = call
        try:
            reply = function(keys, *texts)
            return self._items(reply[1:]) if type(reply) is tuple else self._from_lua(reply)
        except lua51.LuaError as error:
            raise ResponseError(f"ERR in script: {error}") from error
        finally:
            self._call = _nobody

    def _redis_call(self, name: bytes, *arguments: Any) -> Any:
        reply = self._call(name, as_texts(arguments))
        return reply if type(reply) in _AS_IT_IS else self._to_lua(reply)

    def _redis_pcall(self, name: bytes, *arguments: Any) -> Any:
        try:
            return self._redis_call(name, *arguments)
        except ResponseError as error:
            return self._runtime.table_from({b"err": str(error).encode()})

    def _to_lua(self, value: Any) -> Any:
        """A reply as Lua sees it: no nil but false, numbers of sorted sets as text, pairs one after the other."""
        kind = type(value)
        if value is None:
            return False
        if kind is Status:
            return self._status(value)
        if kind is list:
            if value and type(value[0]) is Scored:
                value = [part for pair in value for part in pair]
            if _all_as_they_are(map(type, value)):
                return self._table(*value)
            return self._table(*[each if type(each) in _AS_IT_IS else self._to_lua(each) for each in value])
        return as_text(value)

    def _status(self, value: Status) -> Any:
        table = self._statuses.get(value)
        if table is None:
            table = self._statuses[value] = self._runtime.table_from({b"ok": bytes(value)})
        return table

    def _from_lua(self, value: Any) -> Any:
        """What a script returns as a client gets it; a table ends at its first nil."""
        kind = type(value)
        if kind is bytes or kind is int:
            return value
        if value is None or value is False:
            return None
        if value is True:
            return 1
        if kind is float:
            return int(value)
        listed = self._listed(value)
        return self._items(listed) if type(listed) is tuple else []

    def _items(self, listed: tuple[Any, ...]) -> list[Any]:
        """Those of a table, which come after how many there are, as far as the first nil."""
        items = listed[1:]
        if _all_texts(map(type, items)):
            return list(items)
        if None in items:
            items = items[: items.index(None)]
        return [each if type(each) is bytes else self._from_lua(each) for each in items]

    def _decode(self, text: bytes) -> Any:
        return self._table_of(msgspec.json.decode(text))

    def _table_of(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            return value.encode()
        if kind is dict:
            return self._record(*[self._table_of(part) for pair in value.items() for part in pair])
        return self._table(*map(self._table_of, value)) if kind is list else value

    def _encode(self, table: Any) -> bytes:
        return json.dumps(self._plain(table), separators=(",", ":")).encode()

    def _plain(self, value: Any) -> Any:
        if lua51.lua_type(value) == "table":
            return {name.decode(): self._plain(each) for name, each in value.items()}
        return value.decode() if isinstance(value, bytes) else value


def _sha1hex(text: bytes) -> bytes:
    return hashlib.sha1(text).hexdigest().encode()  # noqa: S324  # what Redis has for scripts


def _nobody(_name: bytes, _arguments: Sequence[bytes]) -> Any:
    raise AssertionError("only a script calls")


def as_texts(values: Sequence[Any]) -> Sequence[bytes]:
    """Arguments as the server sees them. From a script they mostly are so, from a client they never are."""
    if not values or (type(values[0]) is bytes and _all_texts(map(type, values))):
        return values
    return [
        value.encode() if type(value) is str else value if type(value) is bytes else as_text(value) for value in values
    ]


def as_text(value: Any) -> bytes:
    """An argument as the server sees it. Numbers of Lua as Redis writes them."""
    kind = type(value)
    if kind is int:
        return b"%d" % value
    if kind is float:
        return b"%.17g" % value
    if isinstance(value, bytes):
        return value
    return str(value).encode()
