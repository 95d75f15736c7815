"""Writes down what a client asks and learns: a line before anything is sent, and a line as the answer is known."""

import itertools
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from broker.answers import Word
from broker.clock import clock_name, steady_ns
from broker.history.describe import asked, learned
from broker.history.record import VERSION, Kind, Record
from broker.messages import Request

log = structlog.get_logger(__name__)


class Sender(Protocol):
    """Who records: the address of a client."""

    @property
    def factory_id(self) -> str: ...
    @property
    def incarnation(self) -> str: ...
    @property
    def instance(self) -> str: ...


class Answered(Protocol):
    """A reply, as far as it is written down."""

    @property
    def answer(self) -> Word: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def body(self) -> Mapping[str, object]: ...


class Recorder:
    """The history of one client. `write` gets each record as it happens, in the thread that makes the call."""

    def __init__(
        self,
        sender: Sender,
        write: Callable[[Record], None],
        *,
        close: Callable[[], None] = lambda: None,
        now_ns: Callable[[], int] = steady_ns,
        clock: str | None = None,
    ) -> None:
        """`clock` names what `now_ns` reads, where histories of several clocks may be put together."""
        self.close = close
        self._sender = sender
        self._write = write
        self._now_ns = now_ns
        self._numbers = itertools.count(1)
        write(
            Record(
                type="start",
                at=now_ns(),
                client=sender.instance,
                factory=sender.factory_id,
                incarnation=sender.incarnation,
                v=VERSION,
                pid=os.getpid(),
                clock=clock,
            )
        )

    def invoked(self, request: Request) -> Record:
        """A request is about to be sent. Returns the record, which `ended` takes."""
        record = Record(
            type="invoke",
            at=self._now_ns(),
            client=self._sender.instance,
            call=next(self._numbers),
            op=request.op,
            request=request.request_id,
            factory=self._sender.factory_id,
            incarnation=self._sender.incarnation,
            **asked(request.op, request.request_id, request.body),
        )
        self._write(record)
        return record

    def ended(self, invoked: Record, request: Request, reply: Answered | None, *, sent: bool = True) -> None:
        """The call is over: with this reply, or without one. `sent`: whether anything of it has left this process."""
        own = asked(request.op, request.request_id, request.body)
        if reply is not None:
            said = learned(request.op, own, request.body, reply.answer.value, reply.reason, reply.body)
            for kind, fields in said:
                self._end(invoked, kind, fields)
        elif sent:
            self._end(invoked, "unknown", own)
        else:
            self._end(invoked, "refused", {**own, "answer": NOT_SENT})

    def _end(self, invoked: Record, kind: Kind, fields: Mapping[str, object]) -> None:
        ended = {"type": kind, "at": self._now_ns(), "sent": invoked.at, **fields}
        self._write(msgspec.structs.replace(invoked, **ended))


NOT_SENT = "not_sent"
"""The answer of a call that never left: Redis could not be reached."""


class HistoryFile:
    """A file of records, one line each, appended with one write: what is in it survives a SIGKILL."""

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._path = path
        self._lock = threading.Lock()  # a closed descriptor's number may soon be another file's

    def __call__(self, record: Record) -> None:
        """Append a record. Where that fails nothing more is written: the work goes on, and the history ends here."""
        line = msgspec.json.encode(record) + b"\n"
        with self._lock:
            if self._descriptor is None:
                return
            try:
                written = os.write(self._descriptor, line)
                why = f"only {written} of {len(line)} bytes of a line were taken" if written < len(line) else None
            except OSError as error:
                why = str(error)
        if why is not None:
            log.warning("history_ends", file=str(self._path), error=why)
            self.close()

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)


def open_recorder(path: Path, sender: Sender) -> Recorder:
    """A client's history in the file `path`, or in a file of its own where that is a folder.

    Raises:
      OSError: the file can't be opened.
    """
    if path.is_dir():
        path /= f"{sender.factory_id}-{os.getpid()}-{sender.instance}.jsonl"
    file = HistoryFile(path)
    return Recorder(sender, file, close=file.close, clock=clock_name())
