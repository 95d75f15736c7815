"""The operations a client offers, once for both clients, so that they can't drift apart."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from broker.client.submissions import submission
from broker.client.wording import body_fields, listed, only
from broker.documents import State
from broker.lease_bodies import RenewBody
from broker.messages import (
    Cancel,
    ChangeSchedule,
    Claim,
    Complete,
    Envelope,
    Explain,
    Fail,
    GetJob,
    HandOver,
    Hold,
    Lift,
    ListJobs,
    ListLimits,
    ListQueues,
    ListRuns,
    ListSchedules,
    PauseQueue,
    Progress,
    PutSchedule,
    Redrive,
    Release,
    RemoveLimit,
    Renew,
    RenewMany,
    ResumeQueue,
    Revoke,
    SetLimit,
    Submit,
    SubmitBody,
)

T_co = TypeVar("T_co", covariant=True)


class Operations(ABC, Generic[T_co]):
    """Every operation of the protocol. `T_co` is a `Reply`, or in the async client what one awaits to get it.

    Common to all: `request_id` repeats an earlier request, which then takes effect once and gets the same answer
    (a `NewId` is a first one); `timeout_ms` bounds all attempts together (None: the client's own).

    Raises:
      InvalidRequest: an argument is outside its limits. Nothing was sent.
      BrokerUnavailable: Redis could not be reached within the timeout. Nothing was sent.
      BrokerTimeout: no answer in time; the request may have taken effect.
      ClientClosed: the client is closed, or was made before a fork.
    """

    @abstractmethod
    def _ask(
        self, kind: type[Envelope], body: Mapping[str, Any], *, request_id: str | None, timeout_ms: int | None
    ) -> T_co: ...

    @abstractmethod
    def _broker_ms(self) -> int | None:
        """Broker time, as far as this client knows it."""

    def submit(
        self,
        payload: Any = None,
        *,
        job_id: str | None = None,
        queue: str = "default",
        priority: int = 0,
        requires: Sequence[str] = (),
        prefers: Mapping[str, int] | None = None,
        fairness_key: str | None = None,
        locks: Sequence[str] = (),
        concurrency: Sequence[str] = (),
        depends_on: Sequence[str] = (),
        not_before_ms: int | None = None,
        deadline_in_ms: int | None = None,
        ttl_ms: int | None = None,
        max_failures: int | None = None,
        max_expiries: int | None = None,
        run_timeout_ms: int | None = None,
        stuck_after_ms: int | None = None,
        on_stuck: str | None = None,
        on_parent_failure: str | None = None,
        unique: str | Mapping[str, str] | None = None,
        supersedes: str | None = None,
        labels: Mapping[str, str] | None = None,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> T_co:
        """Store a job: `ok`, or `conflict`: `exists` where the id is taken by another submission, `not_unique` where
        a live job has its key.

        `not_before_ms` is broker time, Unix milliseconds; `deadline_in_ms` bounds the whole job, counted from now,
        `run_timeout_ms` each run of it. `unique`: a key, or `{"key": …, "policy": "reject" | "replace" | "join"}`.
        `prefers` has weights (1 to 100) of terms that a factory may meet; jobs of equal priority are served in turn
        by `fairness_key`, such as a tenant. `concurrency`: keys that share a limit wherever an operator sets one.
        The rest is as in docs/job-files.md.
        """
        given: dict[str, Any] = {"payload": payload, "job_id": job_id, "queue": queue, "priority": priority}
        given |= {"requires": requires, "prefers": prefers, "fairness_key": fairness_key, "locks": locks}
        given |= {"concurrency": concurrency, "depends_on": depends_on, "not_before_ms": not_before_ms}
        given |= {"deadline_in_ms": deadline_in_ms, "ttl_ms": ttl_ms, "run_timeout_ms": run_timeout_ms}
        given |= {"max_failures": max_failures, "max_expiries": max_expiries, "stuck_after_ms": stuck_after_ms}
        given |= {"on_stuck": on_stuck, "on_parent_failure": on_parent_failure, "unique": unique}
        given |= {"supersedes": supersedes, "labels": labels}
        return self._ask(Submit, submission(given), request_id=request_id, timeout_ms=timeout_ms)

    def claim(
        self,
        job_id: str | None = None,
        *,
        queue: str = "default",
        offers: Sequence[str] = (),
        ttl_ms: int | None = None,
        wait_ms: int = 0,
        count: int | None = None,
        expected_etag: str | None = None,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> T_co:
        """Ask for a lease on one job, or on the next of a queue whose requirements `offers` meets.

        `wait_ms`: how long a claim without `job_id` waits for work; the timeout counts from its end. `count`: up to
        so many jobs (64 at most) in one request; the leases, each with its own epoch and token, are the reply's
        `grants`. To hold a lease while working, use `lease()`.
        """
        body: dict[str, Any] = {"job_id": job_id, "queue": queue, "wait_ms": wait_ms}
        if ttl_ms is not None or count is not None or expected_etag is not None:
            body |= {"ttl_ms": ttl_ms, "count": count, "expected_etag": expected_etag}
        if offers != ():
            body["offers"] = listed("offers", offers)
        return self._ask(Claim, body, request_id=request_id, timeout_ms=timeout_ms)

    def renew(
        self,
        job_id: str,
        *,
        epoch: int,
        token: str,
        ttl_ms: int | None = None,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> T_co:
        """Extend a lease: `renewed` with its directives, or `lease_lost`."""
        body = {"job_id": job_id, "epoch": epoch, "token": token, "ttl_ms": ttl_ms}
        return self._ask(Renew, body, request_id=request_id, timeout_ms=timeout_ms)

    def renew_many(
        self, leases: Sequence[Mapping[str, Any]], *, request_id: str | None = None, timeout_ms: int | None = None
    ) -> T_co:
        """Extend up to 256 leases with one request; the reply's `results` answer for each, in order, as `renew` does.

        Each of `leases` has `job_id, epoch, token`, and may have `ttl_ms`; other fields of a grant are left out.
        """
        fields = RenewBody.model_fields.keys()
        body = {"leases": [only(fields, lease) for lease in leases]}
        return self._ask(RenewMany, body, request_id=request_id, timeout_ms=timeout_ms)

    def complete(
        self,
        job_id: str,
        *,
        epoch: int,
        token: str,
        result: Any = None,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> T_co:
        """End a job as succeeded. `result`: JSON, at most 16 KiB."""
        body = {"job_id": job_id, "epoch": epoch, "token": token, "result": result}
        return self._ask(Complete, body, request_id=request_id, timeout_ms=timeout_ms)

    def fail(
        self,
        job_id: str,
        *,
        epoch: int,
        token: str,
        error: str = "",
        result: Any = None,
        retryable: bool = True,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> T_co:
        """Report a failed try; it is tried again with backoff unless `retryable` is false or its cap is reached."""
        body = {"job_id": job_id, "epoch": epoch, "token": token}
        body |= {"error": error, "result": result, "retryable": retryable}
        return self._ask(Fail, body, request_id=request_id, timeout_ms=timeout_ms)

    def release(
        self,
        job_id: str,
        *,
        epoch: int,
        token: str,
        reason: str | None = None,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> T_co:
        """Give a job back unharmed; where a cancel was asked, this acknowledges it."""
        body = {"job_id": job_id, "epoch": epoch, "token": token, "reason": reason}
        return self._ask(Release, body, request_id=request_id, timeout_ms=timeout_ms)

    def hand_over(
        self,
        job_id: str,
        *,
        epoch: int,
        token: str,
        to: str,
        reason: str | None = None,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> T_co:
        """Give a job back for factory `to`: for the broker's ttl (60 s by default) nobody else gets it.

        `not_claimable (draining)`: that one takes no work; the lease stands.
        """
        body = {"job_id": job_id, "epoch": epoch, "token": token, "to": to, "reason": reason}
        return self._ask(HandOver, body, request_id=request_id, timeout_ms=timeout_ms)

    def progress(
        self,
        job_id: str,
        *,
        epoch: int,
        token: str,
        progress: Any,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> T_co:
        """Write progress (JSON, at most 4 KiB) to the run. Extends nothing."""
        body = {"job_id": job_id, "epoch": epoch, "token": token, "progress": progress}
        return self._ask(Progress, body, request_id=request_id, timeout_ms=timeout_ms)

    def cancel(
        self, job_id: str, *, reason: str | None = None, request_id: str | None = None, timeout_ms: int | None = None
    ) -> T_co:
        """Cancel a waiting job, or ask the holder of a running one to stop."""
        body = {"job_id": job_id, "reason": reason}
        return self._ask(Cancel, body, request_id=request_id, timeout_ms=timeout_ms)

    def redrive(self, job_id: str, *, request_id: str | None = None, timeout_ms: int | None = None) -> T_co:
        """Make a failed or cancelled job ready again."""
        return self._ask(Redrive, {"job_id": job_id}, request_id=request_id, timeout_ms=timeout_ms)

    def revoke(
        self,
        job_id: str,
        *,
        reason: str | None = None,
        hold: bool = False,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> T_co:
        """Take the lease from whoever holds it; with `hold` nobody gets it until it is lifted."""
        body = {"job_id": job_id, "reason": reason, "hold": hold}
        return self._ask(Revoke, body, request_id=request_id, timeout_ms=timeout_ms)

    def hold(
        self, job_id: str, *, reason: str | None = None, request_id: str | None = None, timeout_ms: int | None = None
    ) -> T_co:
        """Keep a job from being claimed until it is lifted; a lease that stands is not touched."""
        body = {"job_id": job_id, "reason": reason}
        return self._ask(Hold, body, request_id=request_id, timeout_ms=timeout_ms)

    def lift(self, job_id: str, *, request_id: str | None = None, timeout_ms: int | None = None) -> T_co:
        """End a hold."""
        return self._ask(Lift, {"job_id": job_id}, request_id=request_id, timeout_ms=timeout_ms)

    def set_limit(
        self,
        limit: str,
        *,
        capacity: int | None = None,
        rate: tuple[int, int] | None = None,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> T_co:
        """Limit `queue:NAME`, `key:NAME` or `factory:NAME`: leases at once, or `(count, per_ms)` grants in any window.

        What is left out stays as it was. Leases that stand go on, and count.
        """
        body: dict[str, Any] = {"limit": limit, **({} if capacity is None else {"capacity": capacity})}
        body |= {} if rate is None else {"rate": {"count": rate[0], "per_ms": rate[1]}}
        return self._ask(SetLimit, body, request_id=request_id, timeout_ms=timeout_ms)

    def remove_limit(self, limit: str, *, request_id: str | None = None, timeout_ms: int | None = None) -> T_co:
        """Take a limit away, its capacity and its rate."""
        return self._ask(RemoveLimit, {"limit": limit}, request_id=request_id, timeout_ms=timeout_ms)

    def limits(self, *, request_id: str | None = None, timeout_ms: int | None = None) -> T_co:
        """Every limit with who uses it: `{limits}`."""
        return self._ask(ListLimits, {}, request_id=request_id, timeout_ms=timeout_ms)

    def pause_queue(
        self, queue: str, *, reason: str | None = None, request_id: str | None = None, timeout_ms: int | None = None
    ) -> T_co:
        """Hand out no more work of a queue; holders go on."""
        body = {"queue": queue, "reason": reason}
        return self._ask(PauseQueue, body, request_id=request_id, timeout_ms=timeout_ms)

    def resume_queue(self, queue: str, *, request_id: str | None = None, timeout_ms: int | None = None) -> T_co:
        """Hand out the work of a queue again, to those that wait for it first."""
        return self._ask(ResumeQueue, {"queue": queue}, request_id=request_id, timeout_ms=timeout_ms)

    def queues(self, *, request_id: str | None = None, timeout_ms: int | None = None) -> T_co:
        """Every queue an operator has paused or limited: `{queues}`."""
        return self._ask(ListQueues, {}, request_id=request_id, timeout_ms=timeout_ms)

    def job(self, job_id: str, *, request_id: str | None = None, timeout_ms: int | None = None) -> T_co:
        """One job and what was submitted: `{job, spec}`."""
        return self._ask(GetJob, {"job_id": job_id}, request_id=request_id, timeout_ms=timeout_ms)

    def jobs(
        self,
        *,
        state: State | str | None = None,
        queue: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> T_co:
        """One page of jobs, `{jobs, cursor}`: the last is that without a cursor, one may be empty. A little stale."""
        body = {"state": state, "queue": queue, "limit": limit, "cursor": cursor}
        return self._ask(ListJobs, body, request_id=request_id, timeout_ms=timeout_ms)

    def runs(
        self, job_id: str, *, cursor: str | None = None, request_id: str | None = None, timeout_ms: int | None = None
    ) -> T_co:
        """A page of a job's runs in order of epoch, `{runs, cursor}`: the latest, or those before a page's `cursor`."""
        body = {"job_id": job_id} | ({} if cursor is None else {"cursor": cursor})
        return self._ask(ListRuns, body, request_id=request_id, timeout_ms=timeout_ms)

    def put_schedule(
        self,
        name: str,
        *,
        cron: str,
        job: SubmitBody | Mapping[str, Any],
        tz: str | None = None,
        catch_up: str | None = None,
        replace: bool = False,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> T_co:
        """Submit `job` again and again: `ok` with `next_ms`, or `conflict (exists)` unless it is to `replace`.

        `catch_up`: missed fires to make up for: `none`, `last`, `all` of 31 days. None: as it is, else UTC and `last`.
        """
        fields = body_fields(job) if isinstance(job, SubmitBody) else dict(job)
        body = {"name": name, "cron": cron, "tz": tz, "catch_up": catch_up, "job": fields, "replace": replace}
        return self._ask(PutSchedule, body, request_id=request_id, timeout_ms=timeout_ms)

    def change_schedule(
        self, name: str, to: str, *, request_id: str | None = None, timeout_ms: int | None = None
    ) -> T_co:
        """Make a schedule `active`, `paused` or `removed`. Fires that fall into a pause are not made up for."""
        return self._ask(ChangeSchedule, {"name": name, "to": to}, request_id=request_id, timeout_ms=timeout_ms)

    def schedules(
        self,
        name: str | None = None,
        *,
        limit: int = 100,
        cursor: str | None = None,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> T_co:
        """One page of schedules, `{schedules, cursor}`; or the one of this name, with its job."""
        body = {"name": name, "limit": limit, "cursor": cursor}
        return self._ask(ListSchedules, body, request_id=request_id, timeout_ms=timeout_ms)

    def explain(
        self,
        job_id: str | None = None,
        *,
        factory: str | None = None,
        offers: Sequence[str] | None = None,
        queue: str | None = None,
        request_id: str | None = None,
        timeout_ms: int | None = None,
    ) -> T_co:
        """Why a job waits, why a factory has no work, or with both why this factory can't have this job.

        For a job `{claimable, reasons, obstacles, interest}`; for a factory `{reasons, obstacles, offers, holds, fits,
        refused}`. `offers`: of the factory; None: those of its last claim.
        """
        body: dict[str, Any] = {"job_id": job_id, "factory": factory, "queue": queue}
        body["offers"] = None if offers is None else listed("offers", offers)
        return self._ask(Explain, body, request_id=request_id, timeout_ms=timeout_ms)
