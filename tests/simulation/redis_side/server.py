"""A simulated server: commands one at a time, scripts by digest, and who waits for a list to fill."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from tests.simulation.redis_side import plain_commands, sorted_commands
from tests.simulation.redis_side.keyspace import Keyspace, Status
from tests.simulation.redis_side.lua import Call, Lua, as_text

COMMANDS = {**plain_commands.COMMANDS, **sorted_commands.COMMANDS}
_FILLS = {b"RPUSH": 0, b"LPUSH": 0, b"LMOVE": 1}
"""Commands that fill a list, and which of their arguments names it."""


class Server:
    """One Redis. Commands are atomic, as in the real one; what may come in between them is the caller's affair."""

    def __init__(self, lua: Lua, now_ms: Callable[[], int], told: Callable[[str], None] | None = None) -> None:
        """`told`: hears of every command but those within scripts."""
        self._told = told
        self.keys = Keyspace(now_ms)
        self._lua = lua
        self._scripts: dict[bytes, bytes] = {}
        self._waiting: dict[bytes, list[Callable[[], None]]] = {}
        self._filled: list[bytes] = []
        self._pushed: Callable[[bytes, Sequence[bytes]], None] = lambda _key, _values: None

    def execute(self, arguments: Sequence[Any]) -> Any:
        """Carry out one command; its reply, or the error it is answered with as a ResponseError raised."""
        name, *rest = [as_text(argument) for argument in arguments]
        if b" " in name:
            name, first = name.split(b" ", 1)
            rest.insert(0, first)
        if self._told is not None:
            self._told(f"redis   {b' '.join([name, *(part[:400] for part in rest)]).decode('utf-8', 'replace')}")
        try:
            return self._one(name.upper(), rest)
        finally:
            self._serve_waiting()

    def watch(self, key: bytes, wake: Callable[[], None]) -> None:
        """Call `wake` once, when something is pushed onto `key`."""
        self._waiting.setdefault(key, []).append(wake)

    def observe(self, pushed: Callable[[bytes, Sequence[bytes]], None]) -> None:
        """Tell `pushed` of everything that is pushed onto a list."""
        self._pushed = pushed

    def forget_scripts(self) -> None:
        """As after a restart."""
        self._scripts.clear()

    def _one(self, name: bytes, rest: list[bytes]) -> Any:
        if name in (b"EVAL", b"EVALSHA"):
            return self._script(name, rest)
        if name == b"SCRIPT":
            return self._manage_scripts(rest)
        command = COMMANDS.get(name)
        if command is None:
            raise ResponseError(f"the simulation knows no {name!r}")
        reply = command(self.keys, rest)
        if name in _FILLS:
            self._filled.append(rest[_FILLS[name]])
            self._pushed(rest[_FILLS[name]], rest[1:])
        return reply

    def _serve_waiting(self) -> None:
        """Whoever blocks on a list is served once the command, or the whole script, is done."""
        filled, self._filled = self._filled, []
        for key in filled:
            waiting = self._waiting.get(key, [])
            while waiting and self.keys.peek(key):
                waiting.pop(0)()

    def _script(self, name: bytes, rest: list[bytes]) -> Any:
        text = rest[0]
        if name == b"EVALSHA":
            known = self._scripts.get(text)
            if known is None:
                raise NoScriptError("NOSCRIPT No matching script. Please use EVAL.")
            text = known
        else:
            self._load(text)
        count = int(rest[1])
        call: Call = lambda command: self._one(command[0].upper(), command[1:])  # noqa: E731  # as the script calls
        return self._lua.run(text, rest[2 : 2 + count], rest[2 + count :], call)

    def _manage_scripts(self, rest: list[bytes]) -> Any:
        if rest[0].upper() == b"LOAD":
            return self._load(rest[1])
        if rest[0].upper() == b"EXISTS":
            return [int(sha in self._scripts) for sha in rest[1:]]
        self.forget_scripts()
        return Status(b"OK")

    def _load(self, text: bytes) -> bytes:
        sha = hashlib.sha1(text).hexdigest().encode()  # noqa: S324  # Redis names scripts by SHA-1
        self._scripts[sha] = text
        return sha
