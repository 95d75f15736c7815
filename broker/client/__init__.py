"""How a factory talks to the broker: clients, the lease guard, and the fence for systems downstream."""

from broker.client.aio import AsyncClient
from broker.client.async_lease import AsyncLease
from broker.client.call import NewId
from broker.client.errors import (
    BrokerTimeout,
    BrokerUnavailable,
    ClientClosed,
    ClientError,
    InvalidRequest,
    InvalidUrl,
    LeaseLost,
    NotGranted,
    RequestRefused,
)
from broker.client.fence_gate import FenceGate, GateBusy, StaleEpoch
from broker.client.lease import Lease
from broker.client.reply import Reply
from broker.client.sync import Client

__all__ = [
    "AsyncClient",
    "AsyncLease",
    "BrokerTimeout",
    "BrokerUnavailable",
    "Client",
    "ClientClosed",
    "ClientError",
    "FenceGate",
    "GateBusy",
    "InvalidRequest",
    "InvalidUrl",
    "Lease",
    "LeaseLost",
    "NewId",
    "NotGranted",
    "Reply",
    "RequestRefused",
    "StaleEpoch",
]
