"""Requests as the bytes that a client would send, made before the window."""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.connection import Connection

from broker.queues import Wire, intake_key, rq_job_hash, rq_job_key, rq_queue_key

FACTORY = "bench"
INSTANCE = "replay"
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Requests:
    """Each request's bytes, and how many answers Redis gives to each."""

    texts: Sequence[bytes]
    commands: int


def group(commands: Sequence[bytes], count: int) -> Requests:
    """Recorded commands as `count` requests.

    Raises:
      ValueError: they don't come in equal parts.
    """
    each, rest = divmod(len(commands), count)
    if rest or not each:
        raise ValueError(f"{len(commands)} commands were recorded for {count} requests: not as many for each")
    return Requests([b"".join(commands[at : at + each]) for at in range(0, len(commands), each)], each)


def write_requests(path: Path, requests: Requests) -> None:
    """Keep requests in a file."""
    with path.open("wb") as file:
        file.write(_LENGTH.pack(requests.commands))
        for text in requests.texts:
            file.write(_LENGTH.pack(len(text)) + text)


def read_requests(path: Path) -> Requests:
    """What `write_requests` kept."""
    data = path.read_bytes()
    (commands,) = _LENGTH.unpack_from(data)
    at, texts = _LENGTH.size, []
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        texts.append(data[at : at + length])
        at += length
    return Requests(texts, commands)


def our_requests(jobs: Sequence[str], wire: Wire) -> Requests:
    """A claim of each job, as docs/protocol has it."""
    # Never connected: it only knows how commands are written.
    packer: Any = Connection()  # type: ignore[no-untyped-call]  # redis-py's own
    texts = []
    for number, job in enumerate(jobs):
        name = f"replay-{number}"
        envelope = {"op": "claim", "request_id": name, "factory_id": FACTORY, "incarnation": "x", "instance": INSTANCE}
        text = json.dumps({**envelope, "body": {"job_id": job}})
        if wire == "intake":
            commands: list[tuple[Any, ...]] = [("RPUSH", intake_key("claims"), text)]
        else:
            fields = [part for pair in rq_job_hash(text, queue="claims").items() for part in pair]
            commands = [("HSET", rq_job_key(name), *fields), ("RPUSH", rq_queue_key("claims"), name)]
        texts.append(b"".join(part for command in commands for part in packer.pack_command(*command)))
    return Requests(texts, 1 if wire == "intake" else 2)
