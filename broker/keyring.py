"""The broker's side of signing: keys derived from one secret that broker processes share, recorded without their own.

So a new key needs no copy on any worker, a revocation is one write that all of them see, and the datastore holds
nothing to sign with (docs/decisions/0030).
"""

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, Self, TypeVar

import msgspec
import structlog

from broker.documents import Frozen
from broker.entropy import Entropy
from broker.searches import pages
from broker.shared_document import change, read_body
from broker.signing import BadKey, Key, KeyId, Role, mac
from datastore import Conflict, Datastore, DatastoreError
from datastore.confirm import confirmed_create
from datastore.json_body import decoded

log = structlog.get_logger(__name__)

MASTER_CHARS_MIN = 32
STANDING_MS = 1_000
"""How long a worker relies on what it read of a key: a revocation is heeded by all within this time."""
CACHED_MAX = 4_096
FORWARDED = "@"
"""Before the id of a key: the broker itself sends the request on. No such key is ever given out."""


_T = TypeVar("_T")


class BadMaster(ValueError):
    """The signing secret can't be used. The message does not show it."""


class Standing(Enum):
    """What the record of a key says."""

    ACTIVE = "active"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


class KeyRecord(Frozen, frozen=True, kw_only=True):
    """What is stored of a key: everything but its secret."""

    id: str = msgspec.field(name="key_id")
    created_ms: int
    revoked_ms: int | None


class Masters:
    """The secrets that keys are derived from, the first for new keys; more than one while they are being changed."""

    def __init__(self, texts: Mapping[str, bytes]) -> None:
        self._masters = texts

    @classmethod
    def parse(cls, text: str) -> Self:
        """One secret a line.

        Raises:
          BadMaster: none, or one that is too short to be one.
        """
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not lines or any(len(line) < MASTER_CHARS_MIN for line in lines):
            raise BadMaster(
                f"a signing secret has at least {MASTER_CHARS_MIN} characters; `openssl rand -hex 32` makes one"
            )
        masters = {hashlib.sha256(f"claim-broker master\n{line}".encode()).hexdigest()[:4]: line for line in lines}
        if len(masters) < len(lines):
            raise BadMaster("two signing secrets can't be told apart; make one of them anew")
        return cls({mark: line.encode() for mark, line in masters.items()})

    def new_key(self, factory: str, role: Role) -> Key:
        """A key that did not exist before.

        Raises:
          BadKey: no factory can have this name.
        """
        id = f"{factory}:{role}:{next(iter(self._masters))}{secrets.token_hex(6)}"
        KeyId.parse(id)
        made = self.derive(id)
        assert made is not None, "its mark is that of the first master"
        return made

    def made(self, id: str) -> bool:
        """Whether a key stems from one of these: workers that have no other take it as long as it is not revoked."""
        return self.derive(id) is not None

    def derive(self, id: str) -> Key | None:
        """The key with this id; None where it stems from a secret that is not known here."""
        try:
            serial = KeyId.parse(id.removeprefix(FORWARDED)).serial
        except BadKey:
            return None
        master = self._masters.get(serial[:4])
        return None if master is None else Key(id, bytes.fromhex(mac(master, "key", id.encode())))


class Keyring:
    """Keys by id, with what their records say. Each process has its own; not shared among threads."""

    def __init__(self, masters: Masters, store: Datastore, steady_ms: Callable[[], int]) -> None:
        self._masters = masters
        self._store = store
        self._steady_ms = steady_ms
        self._keys: OrderedDict[str, Key] = OrderedDict()
        self._standings: OrderedDict[str, tuple[Standing, int]] = OrderedDict()

    def key(self, id: str) -> Key | None:
        """The key with this id, whatever its record says; None where there can be none."""
        found = self._keys.get(id)
        if found is None:
            found = self._masters.derive(id)
            if found is not None:
                _keep(self._keys, id, found)
        return found

    def standing(self, id: str) -> Standing:
        """What the record of a key says, at most `STANDING_MS` ago.

        Raises:
          DatastoreError: it can't be read, and nothing is known of it.
        """
        known = self._standings.get(id)
        now_ms = self._steady_ms()
        if known is not None and now_ms < known[1]:
            return known[0]
        try:
            body = read_body(self._store, _name(id))
        except DatastoreError:
            if known is None:
                raise
            return known[0]  # a store that can't be read can't be changed by the request either
        if body is None:
            return Standing.UNKNOWN  # not kept: a key is used as soon as it is made
        standing = Standing.ACTIVE if body["revoked_ms"] is None else Standing.REVOKED
        _keep(self._standings, id, (standing, now_ms + STANDING_MS))
        return standing


def record(store: Datastore, entropy: Entropy, key: Key, *, now_ms: int) -> None:
    """Make a new key known to every worker.

    Raises:
      DatastoreError: it may not be known; make another one.
    """
    owner = KeyId.parse(key.id)
    body: dict[str, Any] = {"kind": "signing_key", "key_id": key.id, "factory": owner.factory}
    body |= {"role": str(owner.role), "created_ms": now_ms, "revoked_ms": None}
    name = _name(key.id)
    made = confirmed_create(store, name, name, body, write_id=entropy.write_id())
    assert not isinstance(made, Conflict), "48 random bits were drawn twice"


def revoke(store: Datastore, entropy: Entropy, id: str, *, now_ms: int) -> bool:
    """Let nobody sign with a key any more, from at most `STANDING_MS` on. Whether there is such a key.

    Raises:
      DatastoreError: it may still be in use; revoke it again.
    """
    if read_body(store, _name(id)) is None:
        return False
    change(store, entropy, _name(id), lambda body: None if body["revoked_ms"] is not None else {"revoked_ms": now_ms})
    return True


def records(store: Datastore) -> Iterator[KeyRecord]:
    """Every key there is, revoked ones included. A record that makes no sense is reported, and hides no other."""
    for page in pages(store, {"kind": "signing_key"}, limit=500):
        for document in page.documents:
            try:
                found = decoded(document.body, KeyRecord)
                KeyId.parse(found.id)
                yield found
            except (msgspec.DecodeError, BadKey) as error:
                log.error("key_corrupt", document=document.id, error=str(error))


def _name(id: str) -> str:
    """The document of a key."""
    return f"signing-key:{id}"


def _keep(cache: OrderedDict[str, _T], id: str, value: _T) -> None:
    cache[id] = value
    while len(cache) > CACHED_MAX:
        cache.popitem(last=False)
