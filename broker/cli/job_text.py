"""A job as a person reads it."""

import json
from typing import Any

from broker.cli.output import moment, say, span


def describe(job: dict[str, Any], spec: dict[str, Any], run: dict[str, Any] | None, now_ms: int) -> None:
    """Print a job; what is not set is left out. `now_ms` is broker time, Unix milliseconds."""
    lease = job.get("lease")
    lines: list[tuple[str, object]] = [
        ("job", job["id"]),
        ("state", job["state"] + (", held" if job.get("hold") else "")),
        ("queue", f"{job['queue']}, priority {job['priority']}"),
        ("epoch", job["epoch"]),
        ("lease", lease and f"{lease['factory_id']}, for another {span(lease['expires_ms'] - now_ms)}"),
        ("cancel", job.get("cancel") and f"asked for at {moment(job['cancel']['asked_ms'])}"),
        ("requires", ", ".join(job.get("requires") or ())),
        ("locks", ", ".join(job.get("locks") or ())),
        ("depends on", ", ".join(job.get("depends_on") or ())),
        ("not before", moment(job.get("not_before_ms"))),
        ("deadline", moment(job.get("deadline_ms"))),
        ("counted", ", ".join(f"{count} {name}" for name, count in job["counters"].items())),
        ("submitted", f"{moment(job['created_ms'])} by {spec.get('submitted_by') or '-'}"),
        ("labels", ", ".join(f"{name}={text}" for name, text in (spec.get("labels") or {}).items())),
    ]
    if run is not None:
        ended = run.get("outcome") or "running"
        lines.append(("last run", f"{ended}, epoch {run['epoch']}, {run['factory_id']}, {moment(run['started_ms'])}"))
        lines += [(name, run[name]) for name in ("progress", "result", "error") if run.get(name) not in (None, "")]
    for name, value in lines:
        if value not in (None, "", []):
            say(f"{name:<11} {value if isinstance(value, str | int) else json.dumps(value, ensure_ascii=False)}")
    say("payload")
    say(json.dumps(spec.get("payload"), indent=2, ensure_ascii=False))
