"""The whole command line: what factories use, and what runs the broker's own processes."""

from workers.cli.start import main

__all__ = ["main"]
