"""Job files: what a person writes, as bodies of submissions, with the line of each fault."""

from broker.jobfile.fields import KEYS, FieldFaults, submission_body
from broker.jobfile.jsontext import json_value
from broker.jobfile.read import (
    Format,
    JobFileError,
    Problem,
    Submission,
    parse_job_bytes,
    parse_job_text,
    read_job_file,
)
from broker.jobfile.values import duration_ms, moment_ms

__all__ = [
    "KEYS",
    "FieldFaults",
    "Format",
    "JobFileError",
    "Problem",
    "Submission",
    "duration_ms",
    "json_value",
    "moment_ms",
    "parse_job_bytes",
    "parse_job_text",
    "read_job_file",
    "submission_body",
]
