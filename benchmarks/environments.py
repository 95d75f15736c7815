"""Makes each peer's own environment under `benchmarks/.environments`, once: `python -m benchmarks.environments`."""

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE / ".environments"
PYTHON_PEERS: Mapping[str, Sequence[str]] = {
    "huey": ("huey==3.5.4", "redis>=7", "hiredis"),
    "dramatiq": ("dramatiq[redis]==2.2.1", "hiredis"),
    "saq": ("saq[redis,hiredis]==0.26.4", "typing_extensions"),
    "taskiq": ("taskiq==0.13.0", "taskiq-redis==1.2.4", "hiredis"),
    "celery": ("celery[redis]==5.7.0", "hiredis"),
    "arq": ("arq==0.28.0", "hiredis"),
    "streaq": ("streaq==7.2.0", "redis>=7", "hiredis"),
}
NODE_PEERS: Mapping[str, Sequence[str]] = {"bullmq": ("bullmq@6.7.0", "ioredis@6.0.0")}
DONE = "done.txt"
"""In a finished environment: what was asked for, what pip chose. If something else is asked for, it is made anew."""


def main() -> int:
    """Make what is missing; 1 where one could not be made. The others still run."""
    failed = [name for name in (*PYTHON_PEERS, *NODE_PEERS) if not made(name)]
    for name in failed:
        print(f"no environment for {name}: its rows are left out", file=sys.stderr)
    return 1 if failed else 0


def made(name: str) -> bool:
    """Whether the environment of a peer is there, after having tried to make it."""
    if exists(name):
        return True
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    print(f"making the environment of {name}", file=sys.stderr)
    try:
        chosen = _python(folder, PYTHON_PEERS[name]) if name in PYTHON_PEERS else _node(folder, NODE_PEERS[name])
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return False
    (folder / DONE).write_text(f"{_asked(name)}\n{chosen}", encoding="utf-8")
    return True


def exists(name: str) -> bool:
    """Whether the environment of a peer is there, with what is asked for now."""
    done = FOLDER / name / DONE
    return done.exists() and done.read_text(encoding="utf-8").partition("\n")[0] == _asked(name)


def versions() -> dict[str, list[str]]:
    """What is installed for each peer that is there."""
    return {
        name: (FOLDER / name / DONE).read_text(encoding="utf-8").split("\n")[1:]
        for name in (*PYTHON_PEERS, *NODE_PEERS)
        if exists(name)
    }


def program(name: str, command: str = "python") -> str:
    """A program of a peer's environment."""
    return str(FOLDER / name / "bin" / command)


def _asked(name: str) -> str:
    return " ".join(PYTHON_PEERS.get(name, ()) or NODE_PEERS[name])


def _python(folder: Path, requirements: Sequence[str]) -> str:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", *requirements], check=True)
    return subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout.strip()


def _node(folder: Path, packages: Sequence[str]) -> str:
    folder.mkdir(parents=True)
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is missing")
    options = ("--silent", "--no-audit", "--no-fund", "--prefix", str(folder))
    subprocess.run([npm, "install", *options, *packages], check=True)
    return "\n".join(packages)


if __name__ == "__main__":
    sys.exit(main())
