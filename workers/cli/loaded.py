"""The command line, loaded in one go."""

from workers.loading import loading

with loading():
    from workers.cli.app import build_app, main

__all__ = ["build_app", "main"]
