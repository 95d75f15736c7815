"""The command line for factories and people: everything that needs no process of the broker's own."""

from broker.cli.errors import CommandError, run

__all__ = ["CommandError", "run"]
