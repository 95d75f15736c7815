"""A job as a person reads it."""

import json
from collections.abc import Mapping
from typing import Any

from broker.cli.output import moment, say, span


def describe(found: Mapping[str, Any], run: dict[str, Any] | None, now_ms: int) -> None:
    """Print a job, its spec and parents; what is not set is left out. `now_ms` is broker time, Unix milliseconds."""
    job, spec = found["job"], found["spec"]
    lease = job.get("lease")
    parents = (found.get("parents") or {}).items()
    run_deadline = moment((lease or {}).get("run_deadline_ms"))
    lines: list[tuple[str, object]] = [
        ("job", job["id"]),
        ("state", state(job) + (", held" if job.get("hold") else "")),
        ("why", job.get("why")),
        ("queue", f"{job['queue']}, priority {job['priority']}"),
        ("epoch", job["epoch"]),
        ("lease", lease and f"{lease['factory_id']}, for another {span(lease['expires_ms'] - now_ms)}"),
        ("cancel", job.get("cancel") and f"asked for at {moment(job['cancel']['asked_ms'])}"),
        ("requires", ", ".join(job.get("requires") or ())),
        ("locks", ", ".join(job.get("locks") or ())),
        ("depends on", ", ".join(f"{parent} ({known or 'not submitted yet'})" for parent, known in parents)),
        ("on failure", _on_parent_failure(job)),
        ("unique", job.get("unique")),
        ("supersedes", job.get("supersedes")),
        ("not before", moment(job.get("not_before_ms"))),
        ("deadline", moment(job.get("deadline_ms"))),
        ("deadline", run_deadline and f"{run_deadline}, of this run"),
        ("stuck", lease and lease.get("stuck_ms") and f"no progress since {moment(lease['stuck_ms'])}"),
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
    say(*json.dumps(spec.get("payload"), indent=2, ensure_ascii=False).split("\n"))


def state(job: dict[str, Any]) -> str:
    """The state, and whether the run that holds it gets on."""
    return f"{job['state']}, stuck" if (job.get("lease") or {}).get("stuck_ms") else str(job["state"])


def _on_parent_failure(job: dict[str, Any]) -> str | None:
    policy = job.get("on_parent_failure", "block")
    return f"of a parent: {policy}" if job.get("depends_on") and policy != "block" else None
