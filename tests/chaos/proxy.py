"""A TCP proxy before Redis: it drops connections, leaves them half-open, says what nobody said, and leads elsewhere."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

CHUNK_BYTES = 65_536


class Proxy:
    """Forwards every connection to the server at `target`, a unix socket. Runs on a thread of its own."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self.port = 0
        self.opened = 0
        """Connections that clients have opened so far."""
        self.mute = False
        """Whether connections that are opened from now on are half-open from the start."""

    def __enter__(self) -> Self:
        self._thread.start()
        serving = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._accept, "127.0.0.1", 0), self._loop)
        self._server = serving.result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"redis://127.0.0.1:{self.port}/0"

    def lead_to(self, target: Path) -> None:
        """New connections go to another server; those there are stay."""
        self._target = target

    def drop(self) -> int:
        """Close every connection at once, on both sides; how many there were."""
        return self._each(_Connection.close)

    def half_open(self) -> int:
        """Forward nothing on the connections there are, and tell nobody: as if a firewall had forgotten them."""
        return self._each(_Connection.silence)

    def reset(self) -> int:
        """Close every connection on the clients' side alone, as a gateway does that fails: the server hears nothing."""
        return self._each(_Connection.reset)

    def say(self, instead: bytes) -> int:
        """On the connections there are, say this once instead of what the server says next; how many there are."""
        return self._each(lambda connection: connection.say(instead))

    def _each(self, act: "Callable[[_Connection], None]") -> int:
        """In one step: a client that hears of one end closes its others, which were to be treated as that one was."""

        async def act_on_all() -> int:
            connections = list(self._connections)
            for connection in connections:
                act(connection)
            return len(connections)

        return asyncio.run_coroutine_threadsafe(act_on_all(), self._loop).result()

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(str(self._target))
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(client=writer, server=inner_writer, silent=self.mute)
        self._connections.add(connection)
        try:
            with suppress(asyncio.CancelledError):  # of `_end`
                await asyncio.gather(connection.pump(reader, inner_writer), connection.pump(inner_reader, writer))
        finally:
            self._connections.discard(connection)
            connection.close()


class _Connection:
    def __init__(self, *, client: asyncio.StreamWriter, server: asyncio.StreamWriter, silent: bool) -> None:
        self._client = client
        self._server = server
        self._silent = silent
        self._instead = b""

    def say(self, instead: bytes) -> None:
        self._instead = instead

    def silence(self) -> None:
        self._silent = True

    def reset(self) -> None:
        self.silence()
        self._client.transport.abort()

    def close(self) -> None:
        for writer in (self._client, self._server):
            writer.transport.abort()

    async def pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Forward one direction until an end closes; nothing once silenced, and no end is told of then."""
        with suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                if self._instead and sink is self._client:
                    data, self._instead = self._instead, b""
                if not self._silent:
                    sink.write(data)
                    await sink.drain()
        if not self._silent:
            self.close()
