"""The product's command line with a broken fence: whoever once held a job may end it. The campaign has to notice."""

from broker.documents import Job
from broker.fence import Fence, FenceOk, FenceResult, check
from broker.transitions import decision
from workers import local_fleet
from workers.cli import main


def lenient(job: Job, fence: Fence) -> FenceResult:
    """Any lease will do, whoever holds it."""
    return FenceOk() if job.lease is not None else check(job, fence)


if __name__ == "__main__":
    vars(decision)["check"] = lenient
    local_fleet.MODULE = "tests.chaos.no_fence"  # its children are broken too
    main()
