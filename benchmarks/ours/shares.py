"""How two workers share the work, seen from outside: what Redis has sent to the connections of each."""

from collections.abc import Sequence

import psutil

from benchmarks.server import Server


def lesser_share_percent(server: Server, workers: Sequence[int]) -> float:
    """The share of the worker that was sent least: nearly all of it is the requests that it took."""
    owners = {
        connection.laddr.port: pid
        for pid in workers
        for connection in psutil.Process(pid).net_connections(kind="tcp")
        if connection.raddr and connection.raddr.port == server.port
    }
    sent = dict.fromkeys(workers, 0)
    with server.connect() as connection:
        for client in connection.client_list():
            port = int(str(client["addr"]).rpartition(":")[2])
            if port in owners:
                sent[owners[port]] += int(client["tot-net-out"])
    return 100 * min(sent.values()) / max(1, sum(sent.values()))
