"""How the parents of a blocked job stand: read one by one, and no more of them than decide what becomes of it."""

from collections.abc import Collection

from broker import repository
from broker.documents import TERMINAL, Job, OnParentFailure, State
from broker.repository import Missing, Stale, Updated
from broker.settlement import CAS_ATTEMPTS_MAX, CAS_PAUSE_MS, Context

LOST = frozenset({State.FAILED, State.CANCELLED})


class Parents:
    """What reads have shown of parents, so that who looks at many jobs reads one that several wait for once.

    For such a look, and no longer. That a parent has succeeded is for good. One that had not ended may have by now, and
    who ended it looks at its children, too. One that was lost may have been redriven: `as_it_stands` says so.
    """

    def __init__(self) -> None:
        self.reads = 0
        """Parents read so far."""
        self._states: dict[str, State | None] = {}

    def state(self, context: Context, parent: str) -> State | None:
        """As a read shows it, now or before; None where there is no such job yet."""
        if parent not in self._states:
            self.reads += 1
            read = repository.read_job(context.store, parent)
            self._states[parent] = None if read is None else read.state
        return self._states[parent]

    def as_it_stands(self, context: Context, parent: str) -> State | None:
        """As a version has it that can be written on, if it was lost; None where others keep writing it."""
        self.reads += 1
        read = repository.read_job(context.store, parent)
        stands = None if read is None else _as_it_stands(context, read)
        state = None if stands is None else stands.state
        if state not in LOST:
            self._states[parent] = state
        return state

    def forget(self, job_id: str) -> None:
        """This job was written: what was read of it counts no more."""
        self._states.pop(job_id, None)


def all_states(context: Context, job: Job) -> dict[str, State]:
    """The state of every parent there is, for whoever wants to see them."""
    known = Parents()
    states = {parent: known.state(context, parent) for parent in job.depends_on}
    return {parent: state for parent, state in states.items() if state is not None}


def deciding(
    context: Context, job: Job, known: Parents, *, sure: bool = False, ended: Collection[str] = ()
) -> dict[str, State]:
    """The states of as many parents as decide what becomes of a blocked job; of the others it needs none.

    It waits for the first that is not done. Only one that is to be cancelled with a parent may have a lost one behind
    that, too. `ended`: parents that have just ended, which is why it is looked at. They come first, and there is no
    search for another lost one then: once that one ended this job was looked at, too, or the sweep does.

    `sure`: of a parent that was lost, where that frees or ends the job, only as a version that can be written on has
    it: it may have been redriven since.
    """
    policy = job.on_parent_failure
    done = TERMINAL if policy is OnParentFailure.IGNORE else {State.SUCCEEDED}
    searches = policy is OnParentFailure.CANCEL and not ended
    found: dict[str, State] = {}
    for parent in dict.fromkeys([*(each for each in ended if each in job.depends_on), *job.depends_on]):
        state = known.state(context, parent)
        if sure and state in LOST and policy is OnParentFailure.CANCEL:
            state = known.as_it_stands(context, parent)
        if state is not None:
            found[parent] = state
        if state not in done and (state in LOST or not searches):
            return found
    return _made_sure(context, found, known) if sure and policy is OnParentFailure.IGNORE else found


def _made_sure(context: Context, found: dict[str, State], known: Parents) -> dict[str, State]:
    """Those of a job that all of them let go on, up to the first that does not any more."""
    sure: dict[str, State] = {}
    for parent, read in found.items():
        state = known.as_it_stands(context, parent) if read in LOST else read
        if state not in TERMINAL:
            break
        sure[parent] = state
    return sure


def _as_it_stands(context: Context, parent: Job) -> Job | None:
    """A parent that was lost as it is now; None where others keep writing it.

    Those are mostly others who look at the same children: who gave way to them at once left it to them, and they to it.
    """
    read: Job | None = parent
    for attempt in range(CAS_ATTEMPTS_MAX):
        if read is None or read.state not in LOST:
            return read
        if attempt:
            context.pause(CAS_PAUSE_MS * context.entropy.jitter())
        match repository.rev_update_job(context.store, read, {}, write_id=context.entropy.write_id()):
            case Updated(job):
                return job
            case Stale(current):
                read = current
            case Missing():
                return None
    return None
