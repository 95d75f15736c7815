"""All commands, put together by the outermost layer, so that `broker` never imports `workers`."""

import typer

from broker.cli.app import build_app as build_inner_app
from workers.cli import (
    demo_command,
    doctor_command,
    fleet_commands,
    key_commands,
    process_commands,
    refused_command,
    status_command,
)
from workers.guarded_start import GuardedStart


def build_app() -> typer.Typer:
    """Every command of `broker`."""
    app = build_inner_app(start=GuardedStart())
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
