"""Rates, exact: the moments of the latest grants, none of which may make a window too full. Pure rules."""

from collections.abc import Sequence

from broker.clock import SET_BACK_MS
from broker.limits import Rate


def admitted(moments: Sequence[int], rate: Rate, now_ms: int) -> list[int] | None:
    """The moments once a grant at `now_ms` is among them; None where a window of `per_ms` would hold too many.

    A window is `[t, t + per_ms)`. Workers' clocks differ a little, so `now_ms` may lie before moments that are
    there already; two windows of moments are kept, so that every window such a latecomer is in is known. Only those
    that the new grant is in are looked at: others may be too full since before the rate was lowered.
    """
    moments = _known(moments, now_ms)
    newest = max([*moments, now_ms])
    if now_ms <= newest - rate.per_ms:
        return None
    grown = sorted([*moments, now_ms])
    at = grown.index(now_ms)
    near = grown[max(0, at - rate.count) : at + rate.count + 1]
    if any(later - earlier < rate.per_ms for earlier, later in zip(near, near[rate.count :], strict=False)):
        return None
    kept = [moment for moment in grown if moment > newest - 2 * rate.per_ms]
    if len(kept) > 1:
        return kept
    # Long after all others; or by the time from before the clock was set back, of which those are: then they count yet.
    return [*(moment for moment in sorted(moments)[-rate.count :] if moment < now_ms - SET_BACK_MS), now_ms]


def free_ms(moments: Sequence[int], rate: Rate, now_ms: int) -> int:
    """When the next grant is admitted; `now_ms` where it is now."""
    if admitted(moments, rate, now_ms) is not None:
        return now_ms
    latest = sorted(_known(moments, now_ms))[-rate.count :]
    return max(now_ms + 1, latest[0] + rate.per_ms)


def without(moments: Sequence[int], moment: int) -> list[int] | None:
    """The moments after a grant that did not come about; None where it is not among them."""
    if moment not in moments:
        return None
    kept = list(moments)
    kept.remove(moment)
    return kept


def _known(moments: Sequence[int], now_ms: int) -> list[int]:
    """Without those from before the clock was set back."""
    return [moment for moment in moments if moment <= now_ms + SET_BACK_MS]
