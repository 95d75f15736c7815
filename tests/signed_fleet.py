"""A fleet whose workers take signed requests only, and keys for it."""

from pathlib import Path
from typing import Any

from broker.client import Client
from broker.entropy import SystemEntropy
from broker.keyring import Masters, record
from broker.queues import Wire
from broker.signing import Key, Role
from datastore import connect
from tests.fleet import Fleet

SECRET = "0123456789abcdef" * 4


class Signed:
    """Where the keys of a fleet come from, and `env` for its workers."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet = fleet
        self.store = connect(fleet.datastore_url)
        self.masters = Masters.parse(SECRET)
        secret = folder / "signing.secret"
        secret.write_text(SECRET)
        self.env = {"BROKER_SIGNING": "required", "BROKER_SIGNING_SECRET_FILE": str(secret)}

    def key(self, factory: str, role: Role = Role.FACTORY) -> Key:
        key = self.masters.new_key(factory, role)
        record(self.store, SystemEntropy(), key, now_ms=0)
        return key

    def client(self, key: Key, wire: Wire = "rq", **options: Any) -> Client:
        url = self.fleet.redis_url
        return Client.connect(url, factory_id=key.factory, wire=wire, key=key.text(), **options)
