"""`command_server.py FD`: runs `broker` commands in forks of this process, which has loaded all that they need.

Each connection to the listening socket FD is one command: four bytes with a length and the command's standard streams,
then JSON `{arguments, cwd, env}`. The answer is a line with the command's pid, and one with its exit status.
"""

import json
import os
import socket
import sys
from contextlib import suppress

import structlog

import broker.agent
import broker.client
import broker.exec
import broker.jobfile
import broker.settings
from workers.cli import app, main

_LOADED = (app, broker.agent, broker.client, broker.exec, broker.jobfile, broker.settings, structlog)
STREAMS = 3


def serve(listener: socket.socket) -> None:
    """Until this process is killed. Returns in each fork that is to be a command, its streams and folder in place."""
    while True:
        connection, _ = listener.accept()
        _reap()
        if os.fork() == 0:
            listener.close()
            break
        connection.close()
    header, streams, _, _ = socket.recv_fds(connection, 4, STREAMS)
    request = json.loads(_exactly(connection, int.from_bytes(header)))
    if (command := os.fork()) != 0:
        connection.sendall(f"{command}\n".encode())
        _, status = os.waitpid(command, 0)
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv[1:] = request["arguments"]


def _reap() -> None:
    """The processes of connections that are over."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        assert more, "half a request"
        data += more
    return data


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
    main()
