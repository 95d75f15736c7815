"""The faults the service and the network were measured to show, by what they prove about a write."""

from typing import Final

from tests.cosmos.fault_proxy import Fault

RETRY_AFTER_MS: Final = 17

DENIED: Final = (
    Fault("401", status=401),
    Fault("403", status=403),
    Fault("403.5300", status=403, headers=(("x-ms-substatus", "5300"),)),
    Fault("404.1003", status=404, headers=(("x-ms-substatus", "1003"),)),
)
"""The service does not let this client in, or has no such container."""

REFUSED: Final = (
    Fault("429", status=429, headers=(("x-ms-retry-after-ms", str(RETRY_AFTER_MS)),)),
    Fault("449", status=449),
    Fault("400", status=400),
    Fault("403.1014", status=403, headers=(("x-ms-substatus", "1014"),)),
    Fault("413", status=413),
    *DENIED,
)
"""The service says that it wrote nothing, and it is to be believed."""

ELSEWHERE: Final = (
    Fault("403.3", status=403, headers=(("x-ms-substatus", "3"),)),
    Fault("404.1002", status=404, headers=(("x-ms-substatus", "1002"),)),
)
"""Refused by this region, which is not or no longer the one to ask; the SDK asks once more."""

AMBIGUOUS: Final = tuple(
    Fault(f"{name} {'after' if apply else 'before'}", apply=apply, status=status, drop=status is None)
    for name, status in (("408", 408), ("410", 410), ("500", 500), ("502", 502), ("503", 503), ("dropped", None))
    for apply in (False, True)
)
"""Each in two kinds that a client can't tell apart: before the write, and after it."""

GATEWAY: Final = tuple(
    Fault(f"{status} with {body.decode() or 'nothing'} {'after' if apply else 'before'}", apply, status, body=body)
    for status, body in ((200, b""), (200, b"{}"), (200, b"[1]"), (200, b"<html/>"), (204, b""), (307, b""))
    for apply in (False, True)
)
"""What a proxy or a gateway says by itself, which is no answer of the service's."""

LATE: Final = (Fault("answered late", apply=True, hold=True), Fault("applied late", hold=True))
"""No answer within the read time-out: the write was applied, or is still on its way and will be."""

STALE_READ: Final = Fault("stale read", stale=True)
