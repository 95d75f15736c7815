"""A simulated server: commands one at a time, scripts by digest, and who waits for a list to fill."""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from tests.simulation.redis_side import plain_commands, sorted_commands
from tests.simulation.redis_side.keyspace import Keyspace, Status
from tests.simulation.redis_side.lua import Lua, as_texts
from tests.simulation.redis_side.scarcity import Scarce, refuse

_FILLS = {b"RPUSH": 0, b"LPUSH": 0, b"LMOVE": 1}
"""Commands that fill a list, and which of their arguments names it."""
COMMANDS = {**plain_commands.COMMANDS, **sorted_commands.COMMANDS}
_FILL_NOTHING = {name: command for name, command in COMMANDS.items() if name not in _FILLS}
_EVALS = frozenset({b"EVAL", b"EVALSHA"})


class Server:
    """One Redis. Commands are atomic, as in the real one; what may come in between them is the caller's affair."""

    def __init__(self, lua: Lua, now_ms: Callable[[], int], told: Callable[[str], None] | None = None) -> None:
        """`told`: hears of every command but those within scripts."""
        self._told = told
        self.keys = Keyspace(now_ms)
        self._lua = lua
        self._scripts: dict[bytes, bytes] = {}
        self._run = 1
        self.full = False
        """Whether it has no memory left."""
        self._waiting: dict[bytes, list[Callable[[], None]]] = {}
        self._filled: list[bytes] = []
        self._pushed: Callable[[bytes, Sequence[bytes]], None] = lambda _key, _values: None

    def execute(self, arguments: Sequence[Any]) -> Any:
        """Carry out one command; its reply, or the error it is answered with as a ResponseError raised."""
        texts = as_texts(arguments)
        name, rest = texts[0], texts[1:]
        if self._told is not None:
            self._told(f"redis   {b' '.join([name, *(part[:400] for part in rest)]).decode('utf-8', 'replace')}")
        if self.full:
            refuse(name)
        try:
            return self._one(name, rest)
        finally:
            if self._filled:
                self._serve_waiting()

    def watch(self, key: bytes, wake: Callable[[], None]) -> None:
        """Call `wake` once, when something is pushed onto `key`."""
        self._waiting.setdefault(key, []).append(wake)

    def observe(self, pushed: Callable[[bytes, Sequence[bytes]], None]) -> None:
        """Tell `pushed` of everything that is pushed onto a list."""
        self._pushed = pushed

    def restart(self) -> None:
        """As another process, or another server in its place: no scripts, and a run id of its own."""
        self._scripts.clear()
        self._run += 1

    def _one(self, name: bytes, rest: Sequence[bytes]) -> Any:
        command = _FILL_NOTHING.get(name)
        if command is not None:
            return command(self.keys, rest)
        if name in _FILLS:
            reply = COMMANDS[name](self.keys, rest)
            self._filled.append(rest[_FILLS[name]])
            self._pushed(rest[_FILLS[name]], rest[1:])
            return reply
        return self._script(name, rest) if name in _EVALS else self._another(name, rest)

    def _another(self, name: bytes, rest: Sequence[bytes]) -> Any:
        """A command on scripts, or one that is written another way."""
        name, *first = name.upper().split(b" ")  # as redis-py has SCRIPT LOAD
        rest = [*first, *rest]
        match name:
            case _ if name in _EVALS:
                return self._script(name, rest)
            case b"SCRIPT":
                return self._manage_scripts(rest)
            case b"INFO":
                used = 100 * self.full
                return f"# Server\r\nrun_id:{self._run:040x}\r\nused_memory:{used}\r\nmaxmemory:100\r\n".encode()
            case _ if name in COMMANDS:
                return self._one(name, rest)
        raise ResponseError(f"the simulation knows no {name!r}")

    def _serve_waiting(self) -> None:
        """Whoever blocks on a list is served once the command, or the whole script, is done."""
        filled, self._filled = self._filled, []
        for key in filled:
            waiting = self._waiting.get(key, [])
            while waiting and self.keys.peek(key):
                waiting.pop(0)()

    def _script(self, name: bytes, rest: Sequence[bytes]) -> Any:
        text = rest[0]
        if name == b"EVALSHA":
            known = self._scripts.get(text)
            if known is None:
                raise NoScriptError("NOSCRIPT No matching script. Please use EVAL.")
            text = known
        else:
            self._load(text)
        return self._lua.run(text, int(rest[1]), rest[2:], Scarce(self._one) if self.full else self._one)

    def _manage_scripts(self, rest: Sequence[bytes]) -> Any:
        if rest[0].upper() == b"LOAD":
            return self._load(rest[1])
        if rest[0].upper() == b"EXISTS":
            return [int(sha in self._scripts) for sha in rest[1:]]
        self._scripts.clear()
        return Status(b"OK")

    def _load(self, text: bytes) -> bytes:
        sha = _sha(text)
        self._scripts[sha] = text
        return sha


@cache
def _sha(text: bytes) -> bytes:
    return hashlib.sha1(text).hexdigest().encode()  # noqa: S324  # Redis names scripts by SHA-1
