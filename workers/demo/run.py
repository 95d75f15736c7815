"""Runs the demo in a folder of its own, and prints the verdict."""

import json as jsonlib
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from datastore import connect
from workers.demo.evidence import Ledger, summarize
from workers.demo.jobs import JOBS
from workers.demo.narration import narrate
from workers.demo.records import read_records
from workers.demo.screen import Screen
from workers.demo.story import DemoError, Story
from workers.state_dir import StateDir, StateDirError

INTERRUPTED_EXIT = 130
"""As a shell reports a command that Ctrl-C ended."""


def run_demo(*, state_dir: Path | None = None, json: bool = False, quiet: bool = False) -> int:
    """Run the main job on the embedded default and print the verdict; the exit status: 0 only if all of it holds.

    Each run has a new folder: inside `state_dir`, where it is kept, or among the temporary files, where it is removed
    unless the run failed. With `json` standard output is one object, with `quiet` the last line alone where it is good.
    """
    folder = None
    try:
        with _interruptible():
            folder = _new_folder(state_dir)
            ok = _run(folder, json=json, quiet=quiet)
    except KeyboardInterrupt:
        sys.stderr.write("demo: interrupted; everything it started has ended\n")
        status = INTERRUPTED_EXIT
    except (OSError, StateDirError) as error:
        sys.stderr.write(f"demo: {error}; give a folder that can be written to with --state-dir\n")
        status = 1
    else:
        status = 0 if ok else 1
    if folder is not None and state_dir is None and status != 1:
        shutil.rmtree(folder, ignore_errors=True)
    return status


def _run(folder: Path, *, json: bool, quiet: bool) -> bool:
    trouble = None
    with Screen(jobs=JOBS, quiet=quiet or json) as screen:
        story = Story(StateDir.at(folder), screen)
        try:
            story.play()
        except DemoError as error:
            trouble = str(error)
    records = read_records(story.records)
    with closing(connect(story.state.datastore_url)) as store:  # by now nothing else has it open
        ledger = Ledger.read(store)
    summary = summarize(story.submitted, ledger, records)
    ok = trouble is None and summary.holds(jobs=JOBS)
    told = narrate(ledger, records)
    if not ok:
        told.append(f"{trouble or 'what was promised does not hold'} (logs, records and the datastore: {folder})")
    if json:
        sys.stdout.write(jsonlib.dumps({"ok": ok, **asdict(summary), "story": told}) + "\n")
    else:
        verdict = f"demo: {'ok' if ok else 'failed'} {summary.fields()}"
        _print([verdict] if ok and quiet else [*told, verdict])
    return ok


def _print(lines: list[str]) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    for line in lines:
        console.print(line, soft_wrap=True)  # the last line is read by programs: never folded


def _new_folder(inside: Path | None) -> Path:
    parent = None if inside is None else StateDir.at(inside).path
    return Path(tempfile.mkdtemp(prefix="broker-demo-", dir=parent))  # mode 0700


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: everything it started is stopped first."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals, and the leashes of children, are the main thread's
        return
    before: Any = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
