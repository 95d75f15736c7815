"""How a factory talks to the broker: clients, the lease guard, and the fence for systems downstream."""

from broker.client.errors import (
    BrokerTimeout,
    BrokerUnavailable,
    ClientClosed,
    ClientError,
    InvalidRequest,
    LeaseLost,
    NotGranted,
    RequestRefused,
)
from broker.client.lease import Lease
from broker.client.reply import Reply
from broker.client.sync import Client

__all__ = [
    "BrokerTimeout",
    "BrokerUnavailable",
    "Client",
    "ClientClosed",
    "ClientError",
    "InvalidRequest",
    "Lease",
    "LeaseLost",
    "NotGranted",
    "Reply",
    "RequestRefused",
]
