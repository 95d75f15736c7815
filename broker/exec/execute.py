"""One job, one command: claim, run, and end the lease by how the command ended."""

import errno
import queue
import shutil
import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from broker.client import BrokerTimeout, BrokerUnavailable, Client, Lease, LeaseLost, NotGranted, RequestRefused
from broker.exec.child import Child
from broker.exec.command import FINAL_EXIT, Command, CommandNotFound, Ending, ExecResult
from broker.exec.events import CancelAsked, Cause, Events, Lost, StoppedEarly, Told, stop_signals


def execute(
    client: Client,
    command: Command,
    job_id: str | None = None,
    *,
    queue_name: str = "default",
    offers: Sequence[str] = (),
    wait_ms: int = 0,
    ttl_ms: int | None = None,
    request_id: str | None = None,
) -> ExecResult:
    """Claim a job, run `command` for it, and end the lease by how the command ended. From the main thread only.

    The command gets the payload as JSON on its standard input, and BROKER_JOB_ID, BROKER_LEASE_EPOCH, BROKER_QUEUE
    and BROKER_ATTEMPT (1 for the first try) in its environment; never the token. Exit status 0 completes the job,
    `FINAL_EXIT` fails it for good, any other status or a signal fails this try.

    A lost lease, a cancel, and SIGTERM, SIGINT or SIGHUP to this process stop the command: TERM (or that signal) to
    its process group, KILL after the grace. A lost lease ends nothing. A job that is to be cancelled is released,
    which acknowledges it; so is one whose runner was told to stop, whatever status the command then gives.

    Raises:
      CommandNotFound: nothing was claimed.
      ClientError: the claim could not be made, or its outcome is unknown; nothing was run.
    """
    require_command(command)
    events: Events = queue.SimpleQueue()
    guard = client.lease(
        job_id,
        queue=queue_name,
        offers=offers,
        wait_ms=wait_ms,
        ttl_ms=ttl_ms,
        request_id=request_id,
        on_lost=lambda reason: events.put(Lost(reason)),
        on_cancel=lambda: events.put(CancelAsked()),
    )
    lease: Lease | None = None
    with stop_signals(events) as claiming:
        try:
            with guard as lease:
                claiming.clear()
                return work(lease, command, events)
        except NotGranted as error:
            return ExecResult(Ending.NOT_GRANTED, error.reply.summary, reply=error.reply)
        except LeaseLost as error:
            return ExecResult(Ending.LEASE_LOST, error.reason, error.job_id, error.epoch)
        except BrokerUnavailable as error:
            if lease is None:  # of the claim
                raise
            return ExecResult(Ending.UNKNOWN, str(error), lease.job_id, lease.epoch)
        except StoppedEarly as error:
            return ExecResult(Ending.RELEASED, f"stopped by {error.signal.name} before a command was run")


def require_command(command: Command) -> None:
    """Do nothing where this machine has the command.

    Raises:
      CommandNotFound: it has not.
    """
    if shutil.which(command.argv[0], path=command.environ.get("PATH")) is None:
        raise CommandNotFound(
            f"{command.argv[0]}: no such command that may be run; check its name and PATH (nothing was claimed)"
        )


def work(lease: Lease, command: Command, events: Events) -> ExecResult:
    """Run the command for a lease that is held, and end it by how the command ended. From any thread, which stays.

    Raises:
      LeaseLost: nothing was ended.
    """
    result = partial(ExecResult, job_id=lease.job_id, epoch=lease.epoch)
    try:
        child = Child(lease, command, events)
    except OSError as error:
        # It is this machine's fault, not the job's.
        why = _why_not(error, command)
        return result(Ending.RELEASED, why, reply=lease.release(why), not_started=error)
    try:
        status, cause = child.supervise(command.grace_ms)
    finally:
        child.end()
    result = partial(result, command_exit=status)
    try:
        return _end(lease, status, cause, result)
    except BrokerTimeout as error:
        return result(Ending.UNKNOWN, str(error), request_id=error.request_id)
    except RequestRefused as error:
        return result(Ending.FAILED, error.reply.summary, reply=error.reply)


_ADVICE: dict[int | None, str] = {
    errno.ENOENT: "; is it, or what its #! line names, still there?",
    errno.ENOEXEC: "; was it built for another machine? Let a script begin with a #! line, or run it with sh",
}
"""What to do where the error alone would leave one puzzled, since the command was found."""


def _why_not(error: OSError, command: Command) -> str:
    """Why the command did not start, in words."""
    advice = _ADVICE.get(error.errno, "") if error.filename == command.argv[0] else ""
    return f"can't run: {error.strerror or error}{advice}"


def _end(lease: Lease, status: int, cause: Cause | None, result: Callable[..., ExecResult]) -> ExecResult:
    match cause:
        case Lost(reason):
            raise LeaseLost(lease.job_id, lease.epoch, reason)
        case CancelAsked():
            return result(Ending.CANCELLED, "cancelled", reply=lease.release("cancelled"))
        case Told(number):
            detail = f"stopped by {number.name}"
            return result(Ending.RELEASED, detail, reply=lease.release(detail))
        case None if status == 0:
            return result(Ending.COMPLETED, "exit status 0", reply=lease.complete({"exit_code": 0}))
        case None:
            detail, outcome = _failure(status)
            reply = lease.fail(detail, result=outcome, retryable=status != FINAL_EXIT)
            return result(Ending.FAILED, detail, reply=reply)


def _failure(status: int) -> tuple[str, dict[str, Any]]:
    """How a command failed, in words and as the run's result."""
    if status > 0:
        return f"exit status {status}", {"exit_code": status}
    try:
        name = signal.Signals(-status).name
    except ValueError:  # a real-time signal has no name
        name = f"signal {-status}"
    return f"ended by {name}", {"signal": name}
