"""The demo's job files: fifty small jobs, two of which take long enough to be interrupted."""

from pathlib import Path

JOBS = 50
QUEUE = "demo"
ENGINE = "demo"
KILLED_JOB = "demo-17"
"""Whoever claims it first is killed while it works."""
STOPPED_JOB = "demo-34"
"""Whoever claims it first is stopped past its lease and continued."""
INTERRUPTED_MS = 30_000
"""Work of a first try that does not end by itself in time; the next try is as quick as any other."""

_TEMPLATE = """\
---
id: {id}
queue: {queue}
engine: {engine}
labels: {{part: demo}}
work_ms: {work_ms}
first_try_work_ms: {first_try_work_ms}
---
Pretend to build part {number} of {jobs}.
"""


def write_job_files(folder: Path) -> list[Path]:
    """One Markdown file with front matter for each job, as a person would write it."""
    folder.mkdir()
    paths = []
    for number in range(1, JOBS + 1):
        job_id = f"demo-{number:02}"
        work_ms = 20 + 15 * (number % 4)
        text = _TEMPLATE.format(
            id=job_id,
            queue=QUEUE,
            engine=ENGINE,
            work_ms=work_ms,
            first_try_work_ms=INTERRUPTED_MS if job_id in (KILLED_JOB, STOPPED_JOB) else work_ms,
            number=number,
            jobs=JOBS,
        )
        paths.append(folder / f"{job_id}.md")
        paths[-1].write_text(text, encoding="utf-8")
    return paths
