"""The whole command line: what factories use, and what runs the broker's own processes."""

from workers.loading import loading

with loading():
    from workers.cli.app import build_app, main

__all__ = ["build_app", "main"]
