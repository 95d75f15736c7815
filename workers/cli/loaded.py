"""The command line, loaded in one go."""

from workers.loading import loading, quiet_interrupts

with quiet_interrupts(), loading():
    from workers.cli.app import build_app, main

__all__ = ["build_app", "main"]
