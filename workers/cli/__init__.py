"""The whole command line: what factories use, and what runs the broker's own processes."""

from workers.cli.loaded import build_app, main

__all__ = ["build_app", "main"]
