"""Redis over TLS with client certificates, made here. The proxy stands in for a server with TLS: tests/tls_proxy.py."""

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
import trustme

from broker.client import AsyncClient, BrokerUnavailable, Client
from broker.settings import load
from tests.fleet import Fleet
from tests.tls_proxy import TlsProxy
from workers.embedded import EmbeddedServer
from workers.runtime import StartError, check_redis, connect_redis

pytestmark = pytest.mark.redis


@dataclass
class Secured:
    """Certificates as files, and a fleet that reaches Redis over TLS alone."""

    fleet: Fleet
    proxy: TlsProxy
    folder: Path

    def url(self, *, ca: str = "ca", certificate: str | None = "client", host: str = "localhost") -> str:
        asked = [f"ssl_ca_certs={self.folder / ca}.pem"]
        if certificate is not None:
            asked += [f"ssl_certfile={self.folder / certificate}.pem", f"ssl_keyfile={self.folder / certificate}.key"]
        return f"rediss://{host}:{self.proxy.port}/0?{'&'.join(asked)}"


@pytest.fixture(scope="module")
def secured(valkey_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
    folder = tmp_path_factory.mktemp("tls")
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    stranger.cert_pem.write_to_path(folder / "stranger-ca.pem")
    for name, by in (("client", authority), ("stranger", stranger)):
        issued = by.issue_cert(f"{name}.factory")
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    made = Secured(Fleet(valkey_server.url, folder), TlsProxy(valkey_server.url, context), folder)
    made.fleet.start_worker({"BROKER_REDIS_URL": made.url()})
    yield made
    made.fleet.close()
    made.proxy.close()


def test_a_worker_and_both_clients_work_over_tls_with_certificates(secured: Secured) -> None:
    with Client.connect(secured.url(), factory_id="f") as client:
        assert client.submit({"x": "y" * 60_000}, job_id="job").good
        with client.lease("job") as lease:
            lease.complete("z" * 16_000)
        assert client.claim(wait_ms=200).answer == "none_available"

    async def life() -> bool:
        async with AsyncClient.connect(secured.url(), factory_id="f") as client:
            await client.submit(job_id="other")
            async with client.lease(wait_ms=1_000) as lease:
                await lease.complete()
            return (await client.job("other")).good

    assert asyncio.run(life())


@pytest.mark.parametrize(
    ("ca", "certificate", "host"),
    [
        ("ca", None, "localhost"),
        ("ca", "stranger", "localhost"),
        ("stranger-ca", "client", "localhost"),
        ("ca", "client", "127.0.0.1"),
    ],
    ids=["no certificate", "a stranger's certificate", "a server nobody vouches for", "a server with another name"],
)
def test_who_cant_prove_who_they_are_is_refused_on_either_side(
    secured: Secured, ca: str, certificate: str | None, host: str
) -> None:
    url = secured.url(ca=ca, certificate=certificate, host=host)
    with pytest.raises(BrokerUnavailable, match="not reachable"):
        Client.connect(url, factory_id="f")
    with connect_redis(load(redis_url=url)) as connection, pytest.raises(StartError, match="not reachable"):
        check_redis(connection)


def test_without_tls_nobody_is_let_in(secured: Secured) -> None:
    url = f"redis://localhost:{secured.proxy.port}/0"
    with pytest.raises(BrokerUnavailable):
        Client.connect(url, factory_id="f")
    assert secured.proxy.handshakes_failed > 0
