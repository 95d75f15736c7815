"""Keeps a second process from serving jobs out of its own memory: on one Redis, a memory store has one owner."""

import os
import secrets
import socket
from dataclasses import dataclass
from typing import Self

from redis import Redis

from broker.scripts import STANDS, Script
from workers.process_identity import ProcessIdentity

OWNER = "broker:memory-owner"
OWNER_TTL_MS = 15_000
"""An owner that was killed is forgotten after this; on its own host at once."""

_TAKE = Script(
    STANDS
    + """
-- KEYS: 1 the owner.  ARGV: who is to be it, for how long (ms), an owner that is gone, or none
local owner = redis.pcall('GET', KEYS[1])
if type(owner) == 'string' and owner ~= ARGV[3] and stands(KEYS[1], ARGV[2]) then return owner end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
"""
)
_RELEASE = Script("if redis.pcall('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0")


class MemoryTaken(Exception):
    """Another process serves jobs from its memory on this Redis. Two would each have their own jobs."""


@dataclass(frozen=True, slots=True)
class MemoryOwner:
    """The right to serve a memory store on one Redis."""

    connection: Redis
    mark: str
    """Of this one process, and so of its store."""

    @classmethod
    def take(cls, connection: Redis) -> Self:
        """Become the owner.

        Raises:
          MemoryTaken: another process is.
        """
        own = ProcessIdentity.own()
        mark = f"{socket.gethostname()} {own.pid} {own.started} {secrets.token_hex(8)}"
        owner = _TAKE.run(connection, [OWNER], [mark, OWNER_TTL_MS, ""])
        if owner is not None and is_gone(str(owner, "utf-8", "replace")):
            owner = _TAKE.run(connection, [OWNER], [mark, OWNER_TTL_MS, owner])
        if owner is not None:
            process = " ".join(str(owner, "utf-8", "replace").split()[:2])
            raise MemoryTaken(
                f"process {process} already serves a memory:// store on this Redis, and memory is not shared; stop it, "
                "or use sqlite:///path for several workers"
            )
        return cls(connection, mark)

    def keep(self, connection: Redis) -> None:
        """Stay the owner for another `OWNER_TTL_MS`; also after all of Redis was lost."""
        connection.set(OWNER, self.mark, px=OWNER_TTL_MS)

    def release(self) -> None:
        """Let another process become the owner."""
        _RELEASE.run(self.connection, [OWNER], [self.mark])


def in_forked_horse(connection: Redis, rq_worker: str) -> bool:
    """Whether this process is the work-horse that a forking rq worker made for one rq job."""
    pid = connection.hget(f"rq:worker:{rq_worker}", "pid")
    return pid is not None and int(pid) != os.getpid()


def is_gone(mark: str) -> bool:
    """Whether this is the mark of a process on this host that has ended, and its memory with it."""
    parts = mark.split()
    if len(parts) != 4 or parts[0] != socket.gethostname() or not parts[1].isdecimal():
        return False
    return not ProcessIdentity(int(parts[1]), parts[2]).alive()
