"""What Redis says where it takes nothing now and may soon, whatever is asked: it says nothing of the request."""

_WAIT = "give it more time"
_WAYS_OUT = {
    "LOADING": _WAIT,
    "READONLY": "it is a replica: wait until it takes over, or give the URL of its primary",
    "MASTERDOWN": _WAIT,
    "CLUSTERDOWN": _WAIT,
    "TRYAGAIN": _WAIT,
    "NOREPLICAS": _WAIT,
    "BUSY": _WAIT,
    "OOM": "it is full: free some of its memory, or raise its maxmemory",
    "MISCONF": "it can't write to its disk: make room there (its log says more)",
}
"""By the first word of an error reply: it starts, fails over, runs a long script, is full or its disk is."""


def way_out(said: str) -> str | None:
    """What helps where that lasts; None where it is about the request, or who sends it."""
    return _WAYS_OUT.get(said.partition(" ")[0])
