"""What each role may do on Redis, as rules for `ACL SETUSER`: its own work and nothing else.

Commands and keys are tied together by selectors, which Redis has since 7.0 and every Valkey has: a factory may push on
the intake and pop from its own channel, but neither read requests nor write replies.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

from broker.events import STREAM
from broker.queues import QUEUES, intake_key, rq_queue_key, rq_workers_key
from broker.replies import reply_key


class RedisRole(StrEnum):
    """Whose connection it is."""

    FACTORY = "factory"
    SUBMITTER = "submitter"
    READER = "reader"
    WORKER = "worker"
    SWEEP = "sweep"


NOWHERE = "broker:nowhere"
"""A list that nobody makes: a push that is carried out only where it is there tells whether Redis takes writes."""
_CONNECT = "+auth +hello +time +client|setname +client|setinfo"
"""Not +@connection: it allows CLIENT PAUSE, which stops the whole broker. Nor PING, which our clients don't use: what
comes with it is sent back, and where nobody reads that, Valkey 9.1 counts it towards no connection: no limit ends it.
"""
_DATA = "+@read +@write -@dangerous -@scripting +eval +evalsha +script|load -copy -move -randomkey"
"""Commands on keys. KEYS, FLUSHALL, SWAPDB, MIGRATE, RESTORE and SORT are among the dangerous ones.

Functions, which write and belong to everybody, go by their category: a server before Redis 7 has none, and refuses a
rule that names them. COPY and MOVE reach other databases.
"""
_ALIVE = "+ping"
"""For who is trusted: rq asks it, and so does redis-py where its health checks are on."""
_SERVE = "+info +client|id +client|unblock"
_RQ = "+multi +exec +client|info"
"""What rq itself does where a worker begins and ends."""
_RQ_KEYS = (*(rq_queue_key(queue) for queue in QUEUES), "rq:job:*", "rq:results:*", "rq:worker*", "rq:queues")
_HINTS = (
    *("sweep", "indexed", "lost", "workers", "asked", "asked:*", "seen", "ready", "ready:*", "parked", "parked:*"),
    *("lane:*", "served:*", "waiting", "waiting:*", "waits:*", "children:*", "settling:*", "answer:*"),
    *("silent*", "recalled:*", "reply:*", "owed", "owed:*", "store", "nowhere"),
)
"""Of the broker's keys those that the sweep mends. Not what workers have in hand, nor the dead letters."""


def rules(role: RedisRole, *, factory: str | None = None) -> str:
    """The rules of a role, to follow the user's name and password. `factory`: under which name its clients ask."""
    return " ".join(["resetchannels", _CONNECT, *_OWN[role](factory or role.value)])


def user_line(name: str, role: RedisRole, *, factory: str | None = None, password: str | None = None) -> str:
    """The whole command. Without a password there is a placeholder in it; with one, only its digest."""
    secret = ">PASSWORD" if password is None else f"#{hashlib.sha256(password.encode()).hexdigest()}"
    return f"ACL SETUSER {name} reset on {secret} {rules(role, factory=factory)}"


def _asks(factory: str, queues: Sequence[str]) -> list[str]:
    """Push requests, pop the replies to them."""
    return [f"({' '.join('~' + intake_key(queue) for queue in queues)} +rpush)", _listens(factory)]


def _listens(factory: str) -> str:
    """Every client waits on its own channel, also one that only reads."""
    return f"(~{reply_key(factory, '*')} +blpop +lpop)"


def _looks(factory: str) -> list[str]:
    """Read the events; count what waits, without a look at it; hear whether Redis takes writes."""
    lists = [*map(rq_queue_key, QUEUES), *map(intake_key, QUEUES), "broker:inflight:*", "broker:dead"]
    return [
        f"(~{STREAM} +xread)",
        f"({' '.join('~' + key for key in lists)} +llen)",
        "(~broker:waiting +hlen)",
        "(~broker:workers +zrange)",
        f"({' '.join('~' + rq_workers_key(queue) for queue in QUEUES)} +smembers)",
        "(~rq:worker:* +hmget)",
        f"(~{NOWHERE} +rpushx)",
        _listens(factory),
    ]


def _serves(_factory: str) -> list[str]:
    """Everything of the broker's, and what rq keeps of its requests and its workers."""
    return [*(f"~{key}" for key in ("broker:*", *_RQ_KEYS)), _DATA, _ALIVE, _SERVE, _RQ]


def _mends(_factory: str) -> list[str]:
    """Write hints again, wake claims and answer those whose wait is over."""
    keys = [*(f"broker:{key}" for key in _HINTS), intake_key("claims"), STREAM]
    return [*(f"~{key}" for key in keys), _DATA, _ALIVE, "+info"]


_OWN: Mapping[RedisRole, Callable[[str], list[str]]] = {
    RedisRole.FACTORY: lambda factory: _asks(factory, QUEUES),
    RedisRole.SUBMITTER: lambda factory: _asks(factory, ["jobs"]),
    RedisRole.READER: _looks,
    RedisRole.WORKER: _serves,
    RedisRole.SWEEP: _mends,
}
