"""The mutants: what each breaks, the patch that breaks it, and the tests of which at least one must fail on it."""

from dataclasses import dataclass


class NotApplied(Exception):
    """A patch does not fit the code any more. The message names the mutant; correct its patch in this file."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A broken broker. Each `before` stands exactly once in the module's source."""

    name: str
    module: str
    patch: tuple[tuple[str, str], ...]
    caught_by: tuple[str, ...]

    def applied(self, source: str) -> str:
        """The module's source with the patch.

        Raises:
          NotApplied: a `before` is not there exactly once.
        """
        for before, after in self.patch:
            if source.count(before) != 1:
                raise NotApplied(f"{self.name}: {self.module} has {source.count(before)} places like {before!r}")
            source = source.replace(before, after)
        return source


PROOF = "tests/concurrency/test_proof.py::TestMemory"
CONTRACT = "tests/contract/test_contract.py::TestMemory::test_the_store_keeps_this_promise"

MUTANTS = (
    Mutant(
        "read-check-write",
        "datastore.memory",
        (
            (
                "fields, removed = freeze_patch(patch)\n        key = (partition_key, id)\n        with self._lock:",
                "fields, removed = freeze_patch(patch)\n        key = (partition_key, id)\n        if True:",
            ),
            (
                "        body = merge(current.body, fields, removed)\n",
                "        GAP((*key, current.rev))\n        body = merge(current.body, fields, removed)\n",
            ),
            (
                "import secrets\n",
                "import secrets\nfrom tests.twins.meeting import ThreadMeeting\nGAP = ThreadMeeting()\n",
            ),
        ),
        (
            f"{PROOF}::test_of_two_claims_on_one_freshly_read_job_one_is_granted_and_one_conflicts",
            f"{CONTRACT}[of sixteen racing updates exactly one wins]",
        ),
    ),
    Mutant(
        "no fence (name only)",
        "broker.fence",
        (
            ("if fence.epoch < job.epoch:", "if False:"),
            (
                "same_token = hmac.compare_digest(job.lease.token.encode(), fence.token.encode())",
                "same_token = True",
            ),
        ),
        ("tests/unit/test_fence.py::test_whoever_has_one_thing_wrong_holds_nothing",),
    ),
    Mutant(
        "epoch reset on release",
        "broker.transitions.decision",
        (('    return {"lease": None,', '    return {"epoch": 0, "lease": None,'),),
        ("tests/unit/test_transitions.py", "tests/concurrency/test_proof.py::TestMemory"),
    ),
    Mutant(
        "etag ignored",
        "datastore.interface",
        (
            (
                "return (self.etag is None or self.etag == document.etag) and "
                "(self.rev is None or self.rev == document.rev)",
                "return True",
            ),
        ),
        ("tests/contract/test_contract.py",),
    ),
    Mutant(
        "reap without a condition",
        "broker.coordinator",
        (
            (
                "attempts[-1])\n\n"
                "    return judge_and_write(context, job.id, judge, job=job, write=_unasked(context), attempts_max=1)",
                "attempts[-1])\n\n"
                "    def anyway(store: Any, read: Job, changes: Any, *, write_id: str) -> Any:\n"
                "        now = repository.read_job(store, read.id) or read\n"
                "        return repository.rev_update_job(store, now, changes, write_id=write_id)\n\n"
                "    return judge_and_write(context, job.id, judge, job=job, attempts_max=1, write=anyway)",
            ),
        ),
        ("tests/unit/test_lost_races.py",),
    ),
    Mutant(
        "clock-trusting",
        "broker.clock",
        (("return self._ahead_ms + self._steady_ms()", "return host_now_ms()"),),
        ("tests/unit/test_clock.py",),
    ),
    Mutant(
        "complete without a run check",
        "broker.transitions.holder",
        (
            (
                '    match at_the_fence(job, fence, now_ms, "complete"):\n        case Lease() as lease:\n'
                "            ended = end_lease(lease, now_ms=now_ms, outcome=Outcome.SUCCEEDED",
                '    match job.lease or at_the_fence(job, fence, now_ms, "complete"):\n        case Lease() as lease:\n'
                "            ended = end_lease(lease, now_ms=now_ms, outcome=Outcome.SUCCEEDED",
            ),
        ),
        ("tests/unit/test_lost_races.py", "tests/unit/test_transitions.py"),
    ),
    Mutant(
        "request id forgotten",
        "broker.transitions.decision",
        (("    recent = Recent(request_id=request_id,", '    recent = Recent(request_id="",'),),
        ("tests/unit/test_transitions.py::test_a_resend_is_a_replay_and_changes_nothing",),
    ),
    Mutant(
        '412 taken as "lost" without a read',
        "datastore.confirm",
        (
            (
                "if isinstance(result, Ok) or (isinstance(result, NotFound) and sends == 0):",
                "if not isinstance(result, NotFound) or sends == 0:",
            ),
        ),
        (
            "tests/unit/test_confirm.py::test_an_update_nobody_wrote_over_is_ok_and_applied_once",
            f"{PROOF}::test_a_claim_whose_answer_is_lost_is_granted_if_it_was_written",
        ),
    ),
)
