"""Jobs as they were written last. An etag is never given twice, so what is known of one version stays true of it."""

from broker.documents import Job
from datastore import Document

JOBS_MAX = 10_000
"""Jobs kept, some 2 KB each; with more all are forgotten, and parsed once more."""
NAMES_MAX = 16
"""Of parents and locks in a job that is kept. One with more, or with what an earlier run came to, may take twenty times
the room."""


class KnownJobs:
    """The latest version seen of each job. For one worker's loop: not safe under threads."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    def keep(self, job: Job) -> None:
        """Know this version of a job from now on, unless it is a large one."""
        if job.last_end is not None or len(job.depends_on) + len(job.locks) > NAMES_MAX:
            self._jobs.pop(job.id, None)
            return
        if len(self._jobs) >= JOBS_MAX and job.id not in self._jobs:
            self._jobs.clear()
        self._jobs[job.id] = job

    def of(self, document: Document) -> Job:
        """The job in this document; parsed unless it is known.

        Raises:
          Corrupt: it is none.
        """
        known = self._jobs.get(document.id)
        return known if known is not None and known.document.etag == document.etag else Job.from_document(document)
