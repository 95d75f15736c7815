"""A Redis in protected mode turns other hosts away, as that of a distribution does in a container."""

from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread

import pytest

from broker.settings import Settings
from workers.runtime import StartError, check_redis, connect_redis

SAID = (
    b"-DENIED Redis is running in protected mode because protected mode is enabled and no password is set for the "
    b"default user. In this mode connections are only accepted from the loopback interface.\r\n"
)
"""As Valkey 9 begins it, to whatever it is asked."""


class Protected(BaseRequestHandler):
    def handle(self) -> None:
        while self.request.recv(4_096):
            self.request.sendall(SAID)


@contextmanager
def protected() -> Iterator[str]:
    with ThreadingTCPServer(("127.0.0.1", 0), Protected) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
        server.shutdown()


def test_a_worker_that_is_turned_away_by_protected_mode_says_what_to_set() -> None:
    with protected() as url, pytest.raises(StartError) as refused:
        check_redis(connect_redis(Settings(redis_url=url)))
    problem, _, step = str(refused.value).partition("; ")
    assert "protected mode" in problem
    assert "requirepass" in step
    assert "protected-mode no" in step
