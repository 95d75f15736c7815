"""The command line for factories and people: everything that needs no process of the broker's own."""

from broker.cli.app import build_app
from broker.cli.errors import CommandError, run

__all__ = ["CommandError", "build_app", "run"]
