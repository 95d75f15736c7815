"""How two workers share the work, seen from outside: what Redis has sent to the connections of each."""

from collections.abc import Mapping, Sequence

import psutil

from benchmarks.server import Server


def sent_bytes(server: Server, workers: Sequence[int]) -> dict[int, int]:
    """What Redis has sent to each process since its connections were opened: nearly all of it is what it took."""
    with server.connect() as connection:
        clients = connection.client_list()  # first: looking for owners takes long enough to be seen in a short window
    owners = {
        socket.laddr.port: pid
        for pid in workers
        for socket in psutil.Process(pid).net_connections(kind="tcp")
        if socket.raddr and socket.raddr.port == server.port
    }
    sent = dict.fromkeys(workers, 0)
    for client in clients:
        port = int(str(client["addr"]).rpartition(":")[2])
        if port in owners:
            sent[owners[port]] += int(client["tot-net-out"])
    return sent


def lesser_share_percent(before: Mapping[int, int], after: Mapping[int, int]) -> float:
    """The share of the worker that was sent least in between: what came before, such as submissions, is not in it."""
    sent = [after[worker] - before[worker] for worker in after]
    return 100 * min(sent) / max(1, sum(sent))
