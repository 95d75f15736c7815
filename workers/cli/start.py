"""The console script: loads what its command needs, and nothing interrupts that."""

import sys

from workers.loading import loading, quiet_interrupts, without

_PROCESSES = ("worker", "sweep")


def main() -> None:
    """Run the command that the arguments name; exits with its status."""
    with quiet_interrupts():
        with loading(), without("rich"):  # structlog would load it, for tracebacks that our logs show otherwise
            import structlog  # noqa: F401
        with loading():
            from broker import cli

            if sys.argv[1:2] and sys.argv[1] in _PROCESSES:  # claims may wait for it: not for forty other commands
                from workers.cli.process_commands import build_app
            else:
                from workers.cli.app import build_app
            app = build_app()
        status = cli.run(app, sys.argv[1:])
    sys.exit(status)
