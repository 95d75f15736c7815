"""All commands, put together by the outermost layer, so that `broker` never imports `workers`."""

import sys

import typer

from broker import cli
from workers.cli import (
    demo_command,
    doctor_command,
    fleet_commands,
    key_commands,
    process_commands,
    refused_command,
    status_command,
)
from workers.leash import leashed
from workers.loading import quiet_interrupts


def build_app() -> typer.Typer:
    """Every command of `broker`."""
    app = cli.build_app(wrap=leashed)
    for group in (
        fleet_commands,
        status_command,
        refused_command,
        process_commands,
        doctor_command,
        key_commands,
        demo_command,
    ):
        group.register(app)
    return app


def main() -> None:
    """The console script."""
    with quiet_interrupts():
        status = cli.run(build_app(), sys.argv[1:])
    sys.exit(status)
