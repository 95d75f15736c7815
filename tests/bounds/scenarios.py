"""What could grow without bound, one function each: it loads the rig, and says what was measured."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from broker.clock import monotonic_ms, sleep_ms
from tests.bounds.requests import claim, claim_next, fenced, submit
from tests.bounds.rig import CHUNK, Memory, Rig
from tests.chaos.measure import percentile
from workers.taking import DEAD

WORKER_GROWTH_MB = 16
"""Above what allocators and caches add after the first fifth; a leak of 100 bytes a request is 100 MB in a million."""
REDIS_GROWTH_MB = 8
LATE_MS = 20_000
"""A third of the default ttl: a renewal has to be answered before the next one is due."""
PASSED_MAX = 640
"""Claims that are served while holders wait for their answers: two workers have 256 in hand and taken already, and
something goes with what holders ask. It is the rounds' median: now and then the driver is late itself.
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the table. `wrong` is empty where the bound holds."""

    what: str
    before: Memory
    after: Memory
    figures: str
    wrong: str = ""


def flat(what: str, before: Memory, after: Memory, figures: str, *, redis_mb: float = REDIS_GROWTH_MB) -> Finding:
    """A row whose memory must not have grown."""
    grown = []
    if after.worker - before.worker > WORKER_GROWTH_MB:
        grown.append(f"a worker grew by {after.worker - before.worker:.1f} MB")
    if after.sweep - before.sweep > WORKER_GROWTH_MB:
        grown.append(f"the sweep grew by {after.sweep - before.sweep:.1f} MB")
    if after.redis - before.redis > redis_mb:
        grown.append(f"Redis grew by {after.redis - before.redis:.1f} MB")
    return Finding(what, before, after, figures, "; ".join(grown))


def requests(rig: Rig, total: int) -> Finding:
    """Claims that find nothing, renewals of leases long over, and whole lives of jobs; every reply is read."""
    began_ms, done, before = monotonic_ms(), 0, rig.memory()
    for chunk in range(max(5, total // CHUNK)):
        if chunk == max(1, total // CHUNK // 5):
            before = rig.memory()  # by now what is cached is cached
        lives = [f"life-{began_ms}-{chunk}-{number}" for number in range(CHUNK // 10)]
        rig.ask("jobs", "x", [submit(job, "x") for job in lives])
        grants = [json.loads(text)["body"] for text in rig.ask("claims", "x", [claim(job, "x") for job in lives])]
        stale = [fenced("renew", grant["job_id"], grant["epoch"], "0" * 32, "x") for grant in grants]
        ends = [fenced("complete", grant["job_id"], grant["epoch"], grant["token"], "x") for grant in grants]
        rig.ask("leases", "x", stale)
        rig.ask("leases", "x", ends)
        rest = CHUNK - 4 * len(lives)
        rig.ask("claims", "x", [claim("none", "x") for _ in range(rest)])
        done += CHUNK
    seconds = (monotonic_ms() - began_ms) / 1000
    return flat(f"{done:,} requests", before, rig.memory(), f"{done / seconds:,.0f} requests/s")


def unread(rig: Rig, total: int) -> Finding:
    """A client that reads none of its replies: its channel keeps the last 4,096 of them, for 15 minutes."""
    before = rig.memory()
    for _ in range(max(1, total // CHUNK)):
        rig.push("claims", [claim("none", "deaf") for _ in range(CHUNK)])
    rig.ask("claims", "x", [claim("none", "x")])
    kept, left_ms = rig.redis.llen("broker:reply:f:deaf"), rig.redis.pttl("broker:reply:f:deaf")
    found = flat(f"{total:,} unread replies", before, rig.memory(), f"{kept:,} kept, gone in {left_ms / 1000:.0f} s")
    if kept > 4_096 or not 0 < left_ms <= 900_000:
        return Finding(found.what, before, found.after, found.figures, f"{kept} kept for {left_ms} ms")
    return found


def dead_clients(rig: Rig, total: int) -> Finding:
    """Clients that ask once and are never heard of again: each leaves a channel that expires."""
    before = rig.memory()
    names = [f"dead-{number}" for number in range(total)]
    for start in range(0, total, CHUNK):
        rig.push("claims", [claim("none", name) for name in names[start : start + CHUNK]])
    rig.ask("claims", "x", [claim("none", "x")])
    after = rig.memory()
    with rig.redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.pttl(f"broker:reply:f:{name}")
        left = pipe.execute()
    for_ever = sum(1 for each in left if each == -1)
    each_bytes = (after.redis - before.redis) * 1_048_576 / total
    figures = f"{each_bytes:.0f} bytes each in Redis, gone in {max(left) / 1000:.0f} s"
    row = flat(f"{total:,} dead clients", before, after, figures, redis_mb=total * 1_000 / 1_048_576)
    return row if not for_ever else Finding(row.what, before, after, figures, f"{for_ever} channels never expire")


def poison(rig: Rig, total: int) -> Finding:
    """Entries that are no requests: refused, the last thousand kept to be looked at."""
    bad = ("not json", '{"op":"claim"}', '{"op":"?","request_id":"r"}', "[" * 5_000, '{"a":1e999}')
    before = rig.memory()
    for start in range(0, total, CHUNK):
        rig.push("jobs", [bad[number % len(bad)] for number in range(start, min(total, start + CHUNK))])
        if start == total // 5 // CHUNK * CHUNK:
            rig.ask("jobs", "x", [submit(f"among-poison-{total}", "x")])
            before = rig.memory()  # by now the worker has met the worst batch there is
    rig.ask("jobs", "x", [submit(f"after-poison-{total}", "x")])
    kept = rig.redis.llen(DEAD)
    found = flat(f"{total:,} poison entries", before, rig.memory(), f"{kept:,} dead letters kept")
    return found if kept <= 1_000 else Finding(found.what, before, found.after, found.figures, f"{kept} dead letters")


def backlog(rig: Rig, total: int) -> Finding:
    """Jobs that nobody takes: Redis keeps an entry of each in its index, workers and sweep nothing."""
    before, began_ms = rig.memory(), monotonic_ms()
    for start in range(0, total, CHUNK):
        rig.ask("jobs", "x", [submit(f"backlog-{number}", "x") for number in range(start, min(total, start + CHUNK))])
    seconds = (monotonic_ms() - began_ms) / 1000
    times = sorted(_claims(rig, 100))
    after = rig.memory()
    each_bytes = (after.redis - before.redis) * 1_048_576 / total
    figures = (
        f"{total / seconds:,.0f} submitted/s, {each_bytes:.0f} bytes each in Redis, "
        f"then claim-next p50 {percentile(times, 0.5)} ms"
    )
    return flat(f"a backlog of {total:,} jobs", before, after, figures, redis_mb=total * 400 / 1_048_576)


def overload(rig: Rig, queue_max: int) -> Finding:
    """Five times what a queue may hold: the last of them is told at once, and afterwards all is as before."""
    before = rig.memory()
    with rig.workers_stopped():
        for _ in range(5 * queue_max // CHUNK):
            rig.push("claims", [claim("none", "flood") for _ in range(CHUNK)])
        rig.push("claims", [claim("none", "last")])
    pushed_ms = monotonic_ms()
    [told] = rig.answers("last", 1)
    told_ms = monotonic_ms() - pushed_ms
    drained_ms = _until_empty(rig, pushed_ms)
    [calm] = rig.ask("claims", "x", [claim("none", "x")])
    words = (json.loads(told)["answer"], json.loads(calm)["answer"])
    figures = (
        f"the last one {words[0]} after {told_ms} ms, all answered after {drained_ms / 1000:.1f} s, then {words[1]}"
    )
    row = flat(f"overload: 5 x {queue_max:,} claims", before, rig.memory(), figures)
    return row if words == ("throttled", "not_found") else Finding(row.what, before, row.after, figures, str(words))


def renewals(rig: Rig, waiting: int) -> Finding:
    """Holders renew while so many claims wait: their queue goes first."""
    jobs = [f"held-{number}" for number in range(20)]
    rig.ask("jobs", "x", [submit(job, "x") for job in jobs])
    grants = [json.loads(text)["body"] for text in rig.ask("claims", "x", [claim(job, "x") for job in jobs])]
    before = rig.memory()
    alone = sorted(_renewals(rig, grants, rounds=5))
    with rig.workers_stopped():
        for start in range(0, waiting, CHUNK):
            rig.push("claims", [claim("none", "herd") for _ in range(min(CHUNK, waiting - start))])
    lengths = [rig.redis.llen("broker:in:claims")]
    times: list[int] = []
    while lengths[-1] > waiting // 10 and len(times) < 10_000:
        times += _renewals(rig, grants, rounds=1)
        lengths.append(rig.redis.llen("broker:in:claims"))
    times.sort()
    passed = median(there - left for there, left in pairwise(lengths))
    figures = (
        f"{len(times)} x 20 renewals while {lengths[0]:,} to {lengths[-1]:,} waited: p50 {percentile(times, 0.5)} ms, "
        f"p99 {percentile(times, 0.99)} ms, worst {times[-1]} ms (alone: p50 {percentile(alone, 0.5)} ms), "
        f"{passed:.0f} claims served meanwhile"
    )
    wrong = ["a renewal was late"] if times[-1] >= LATE_MS else []
    if passed > PASSED_MAX:
        wrong.append(f"holders waited for {passed:.0f} claims")
    return Finding(f"renewals while {waiting:,} claims wait", before, rig.memory(), figures, "; ".join(wrong))


def _renewals(rig: Rig, grants: Sequence[dict[str, object]], *, rounds: int) -> Iterator[int]:
    for _ in range(rounds):
        texts = [fenced("renew", str(g["job_id"]), int(str(g["epoch"])), str(g["token"]), "holder") for g in grants]
        sent_ms = monotonic_ms()
        words = Counter(json.loads(text)["answer"] for text in rig.ask("leases", "holder", texts))
        yield monotonic_ms() - sent_ms
        assert words == {"renewed": len(grants)}, words


def _claims(rig: Rig, count: int) -> Iterator[int]:
    for _ in range(count):
        sent_ms = monotonic_ms()
        [reply] = rig.ask("claims", "x", [claim_next("x")])
        yield monotonic_ms() - sent_ms
        assert json.loads(reply)["answer"] == "granted", reply


def _until_empty(rig: Rig, since_ms: int) -> int:
    while rig.redis.llen("broker:in:claims"):
        sleep_ms(20)
    return monotonic_ms() - since_ms
