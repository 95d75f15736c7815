"""Obstacles in plain words: for each reason one sentence, and what to do about it."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from broker.cli.output import moment, span

Obstacle: TypeAlias = Mapping[str, Any]
Words: TypeAlias = tuple[str, str | None]
"""What stands in the way, and what to do about it; None: only waiting helps."""


def words(obstacle: Obstacle, *, job_id: str, now_ms: int) -> Words:
    """One obstacle for a person. A reason of a newer broker is shown as it came."""
    say = _WORDS.get(str(obstacle.get("reason")))
    if say is not None:
        return say(obstacle, job_id, now_ms)
    details = ", ".join(f"{name} {value}" for name, value in obstacle.items() if name != "reason")
    return (f"{obstacle.get('reason')}: {details}" if details else str(obstacle.get("reason"))), None


def _leased(it: Obstacle, job_id: str, now_ms: int) -> Words:
    text = f"leased by {it['factory_id']} at epoch {it['epoch']} until {moment(it['until_ms'])}, {_left(it)}"
    text += f", renewed {it['renewals']} times" if it.get("renewals") else ""
    text += f"; stuck: no progress since {moment(it['stuck_ms'])}" if it.get("stuck_ms") else ""
    if cancel := it.get("cancel"):
        text += f"; asked to stop{_because(cancel)}, which is enforced {_until(cancel, now_ms, 'enforce_ms')}"
    return text, f"wait for it, or take the lease away: broker revoke {job_id}"


def _terminal(it: Obstacle, job_id: str, now_ms: int) -> Words:
    state = it.get("state")
    if state is None:
        return f"its deadline was {moment(it['deadline_ms'])}: the sweep fails it", None
    text = f"over: {state}"
    if it.get("ended_ms"):
        how = "" if it["outcome"] == state else f" ({it['outcome']})"
        text += f"{how} on {it['factory_id']}, {span(now_ms - it['ended_ms'])} ago"
    elif it.get("why"):
        text += f": {it['why']}"
    text += f': "{it["error"]}"' if it.get("error") else ""
    return text, None if state == "succeeded" else f"start it again: broker redrive {job_id}"


def _held(it: Obstacle, job_id: str, _now_ms: int) -> Words:
    return f"held by an operator since {moment(it['since_ms'])}{_because(it)}", f"lift the hold: broker lift {job_id}"


def _blocked(it: Obstacle, _job_id: str, _now_ms: int) -> Words:
    parents = it.get("parents")
    if not parents:
        return f"waits for {', '.join(it['depends_on'])}", f"see broker explain {it['depends_on'][0]}"
    text = "waits for " + ", ".join(map(_parent, parents))
    over = [parent["job_id"] for parent in parents if parent["state"] in ("failed", "cancelled")]
    missing = [parent["job_id"] for parent in parents if parent["state"] == "missing"]
    if over:
        return text, f"start it again: broker redrive {over[0]}"
    if missing:
        return text, f"submit {missing[0]}: no such job is known"
    return text, f"see broker explain {parents[0]['job_id']}"


def _parent(parent: Mapping[str, Any]) -> str:
    holder = f" on {parent['holder']}, {_left(parent)}" if parent.get("holder") else ""
    return f"{parent['job_id']} ({parent['state']}{holder})"


def _scheduled(it: Obstacle, _job_id: str, now_ms: int) -> Words:
    return f"not due before {moment(it['until_ms'])}, in {span(it['until_ms'] - now_ms)}", None


def _paused(it: Obstacle, _job_id: str, _now_ms: int) -> Words:
    text = f"queue {it['queue']} is paused since {moment(it['since_ms'])}{_because(it)}"
    return text, f"resume it: broker queue resume {it['queue']}"


def _reserved(it: Obstacle, _job_id: str, now_ms: int) -> Words:
    text = f"kept for factory {it['factory']}, to which {it['by']} handed it over"
    text += ", and which drains" if it.get("draining") else ""
    text += f"; anybody's {_until(it, now_ms, 'until_ms')}"
    if it.get("draining"):
        return text, f"wait for that, or let it work again: broker factory resume {it['factory']}"
    return text, f"see whether that factory works: broker factory show {it['factory']}"


def _requirements(it: Obstacle, _job_id: str, _now_ms: int) -> Words:
    missing = ", ".join(it["missing"])
    if not it.get("starving"):
        return f"requires {missing}, which this factory does not offer", "claim with --offers, if the factory has it"
    if draining := it.get("draining"):
        step = f"let it work again: broker factory resume {draining[0]}"
        return f"starving: requires {missing}, which only factories that drain offer: {', '.join(draining)}", step
    if stopped := it.get("stopped"):
        step = f"start it anew: broker agent --factory {stopped[0]} -- CMD"
        return (
            f"starving: requires {missing}, which only factories offer that were told to stop: {', '.join(stopped)}",
            step,
        )
    if not it["asked"]:
        return f"starving: requires {missing}, and nobody asks for work of its queue", "start a factory that offers it"
    told = f"none of the {it['asked']} factories that ask offers it; {it['closest']} comes closest"
    return f"starving: requires {missing}: {told}", "start a factory that offers it"


def _lock_busy(it: Obstacle, _job_id: str, _now_ms: int) -> Words:
    holders = it["holders"]
    told = ", ".join(map(_occupant, holders))
    return f"lock {it['key']} is taken by {told}", f"wait for it, or see broker explain {holders[0]['job_id']}"


def _occupant(holder: Mapping[str, Any]) -> str:
    where = f" on {holder['factory_id']}" if holder.get("factory_id") else ""
    return f"job {holder['job_id']}{where}" + (f", {_left(holder)}" if holder.get("remaining_ms") is not None else "")


def _quota(it: Obstacle, _job_id: str, now_ms: int) -> Words:
    step = "see who uses it: broker limit list"
    if it.get("rate"):
        allowed = f"{it['rate']['count']} starts in {span(it['rate']['per_ms'])}"
        return f"limit {it['limit']} allows {allowed}: the next one {_until(it, now_ms, 'until_ms')}", step
    if it["capacity"] == 0:
        return f"limit {it['limit']} admits nobody", f"change it: broker limit set {it['limit']} N, or limit remove"
    users = "; ".join(map(_occupant, it.get("holders") or ())) or "nobody"
    return f"limit {it['limit']} is reached: {it['used']} of {it['capacity']} in use by {users}", step


def _draining(it: Obstacle, _job_id: str, _now_ms: int) -> Words:
    text = f"factory {it['factory_id']} drains since {moment(it['since_ms'])}{_because(it)}"
    text += f", until {moment(it['until_ms'])}" if it.get("until_ms") else ""
    return text, f"let it work again: broker factory resume {it['factory_id']}"


def _restarted(it: Obstacle, _job_id: str, _now_ms: int) -> Words:
    factory, start, now = it.get("factory_id"), it.get("start"), it.get("incarnation")
    if not start:  # a refused claim knows its own
        return f"this start of its factory is over, since {moment(it.get('since_ms'))}", None
    text = f"start {start} of factory {factory} is over, and its claims are refused: "
    text += f"start {now} came after it" if now else "the factory was removed"
    text += f", {moment(it.get('since_ms'))}"
    register = f"register a new one: broker factory register {factory} --incarnation NAME, and claim with that"
    return text, f"claim as that one, --incarnation {now}, or {register}" if now else register


_WORDS: Mapping[str, Callable[[Obstacle, str, int], Words]] = {
    "leased": _leased,
    "terminal": _terminal,
    "held": _held,
    "blocked": _blocked,
    "scheduled": _scheduled,
    "paused": _paused,
    "reserved": _reserved,
    "requirements": _requirements,
    "lock_busy": _lock_busy,
    "quota": _quota,
    "draining": _draining,
    "restarted": _restarted,
}


def _because(it: Mapping[str, Any]) -> str:
    return f': "{it["why"]}"' if it.get("why") else ""


def _left(it: Mapping[str, Any]) -> str:
    return f"for another {span(it['remaining_ms'])}"


def _until(it: Mapping[str, Any], now_ms: int, name: str) -> str:
    left_ms = int(it[name]) - now_ms
    return f"in {span(left_ms)}" if left_ms > 0 else "any moment"
