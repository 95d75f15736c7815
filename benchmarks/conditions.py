"""What a measurement was made on; a number without it says nothing."""

import os
import platform
import shlex
import sys
from pathlib import Path

import redis


def told(connection: redis.Redis) -> str:
    """Machine, versions and command, a line each."""
    info = connection.info("server")
    server = f"{info.get('server_name', 'redis')} {info.get('valkey_version', info['redis_version'])}"
    argv = shlex.join(sys.orig_argv[1:])
    return "\n".join(
        [
            f"machine:  {machine()}",
            f"versions: Python {platform.python_version()}, redis-py {redis.__version__}, {server}",
            f"command:  python {argv}",
        ]
    )


def machine() -> str:
    """Processor, its number, the load there is already, and the system."""
    return f"{_processor()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {platform.platform()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
