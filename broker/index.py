"""Who fits whom, in O(log n): members sorted within sets of terms, for each queue.

The same structure twice: ready jobs by what they require and prefer, and parked claims by what they offer.
It is a hint: lost, stale or doubled entries cost time, and the sweep rebuilds it from the datastore.
docs/matching.md says what the order is.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Self, TypeAlias, cast

import msgspec
import structlog
from redis import Redis
from redis.client import Pipeline

from broker.documents import READY as STATE_READY
from broker.documents import Job, Scored
from broker.matching import Offered, Preferences, Wants, canonical
from broker.scripts import Script
from datastore.value import Value

log = structlog.get_logger(__name__)

READY = "broker:ready"
"""Jobs: terms are requirements and preferences, the score is when they came, less what their priority is worth.

What is kept for a factory has sets of its own, with its name before the terms (`heir_of`).
"""
PARKED = "broker:parked"
"""Claims that wait: terms are offers, the score is their arrival."""
LANE = "broker:lane:"
"""Before the key of a set: the jobs of one lane in it."""
INDEXED = "broker:indexed"
"""When all ready jobs were last gone over; gone together with the index when Redis loses everything."""

TEXTS_MAX = 4_096
"""Texts of terms kept with what they say, up to 12 KB each."""
_FIRST = 1 << 52
"""Above every score: what is kept for a factory comes before all else."""
KEPT_TTL_MS = 86_400_000
"""Of a set of jobs that are kept for a factory, which may never ask again. Reservations themselves are shorter."""


class Place(Value, frozen=True):
    """Where a ready job stands in the index: what finds it, and what wakes a waiter for it."""

    job_id: str
    queue: str
    terms: str
    score: Scored
    lane: str = ""
    """Jobs of one fairness key and one priority stand in line behind one entry. Empty: the job stands for itself."""
    kept_for: str = ""
    """The one factory that may have it. Empty: any that fits."""

    @classmethod
    def of(cls, job: Job, *, step_ms: int, now_ms: int) -> Self:
        """The place of a job by broker time. `step_ms`: what waiting makes up for one priority."""
        kept = job.reserved
        if kept is not None and now_ms < kept.until_ms:
            terms = encode_job_terms(job.requires, job.prefers)
            return cls(job.id, job.queue, terms, kept.until_ms - _FIRST, kept_for=kept.factory_id)
        lane = "" if job.fairness_key is None else f"~{job.priority}~{job.fairness_key}"
        return cls(job.id, job.queue, encode_job_terms(job.requires, job.prefers), _score(job, step_ms), lane)

    @classmethod
    def each_of(cls, job: Job, *, step_ms: int) -> tuple[Self, ...]:
        """Wherever it may stand, by the time: where it is kept for one factory, and last, where it is anybody's."""
        until_ms = 0 if job.reserved is None else job.reserved.until_ms
        anybodys = cls.of(job, step_ms=step_ms, now_ms=until_ms)
        if job.reserved is None:
            return (anybodys,)
        return cls.of(job, step_ms=step_ms, now_ms=until_ms - 1), anybodys

    @property
    def key(self) -> str:
        """The sorted set it is in."""
        return members_key(READY, *self.wants)

    @property
    def line(self) -> str:
        """The sorted set that it stands in itself."""
        return LANE + self.key + self.lane if self.lane else self.key

    @property
    def wants(self) -> tuple[str, str]:
        """Its queue and the name of its set: all that tells who may have it."""
        return self.queue, f"{self.kept_for}:{self.terms}" if self.kept_for else self.terms


def _score(job: Job, step_ms: int) -> int:
    """When it came, less what its priority is worth."""
    return (job.ready_ms or job.created_ms) - job.priority * step_ms


def sets_key(prefix: str, queue: str) -> str:
    """The sets of terms a queue has members in."""
    return f"{prefix}:{queue}:sets"


def state_key(prefix: str, queue: str) -> str:
    """Another value whenever sets were taken away, so that it and their number tell whether they are what they were."""
    return f"{prefix}:{queue}:state"


def members_key(prefix: str, queue: str, terms: str) -> str:
    """The sorted members of one set of terms (its canonical JSON)."""
    return f"{prefix}:{queue}:in:{terms}"


def served_key(queue: str) -> str:
    """When each lane of a queue was last served: broker time, a little apart where it would be the same."""
    return f"broker:served:{queue}"


def heir_of(name: str) -> str:
    """The one factory that may have the jobs of a set with this name. Empty: any that fits."""
    return "" if name.startswith("[") else name.partition(":")[0]


def terms_of(name: str) -> str:
    """What the jobs of a set with this name require and prefer."""
    return name if name.startswith("[") else name.partition(":")[2]


def encode_terms(terms: Iterable[str]) -> str:
    """A set of terms as one text; equal sets give equal texts."""
    return json.dumps(canonical(terms), separators=(",", ":"))


@lru_cache(maxsize=TEXTS_MAX)
def encode_job_terms(requires: tuple[str, ...], prefers: Preferences) -> str:
    """Requirements and preferences as one text; without preferences as `encode_terms` has it."""
    if not prefers:
        return encode_terms(requires)
    return json.dumps([canonical(requires), dict(sorted(prefers))], separators=(",", ":"))


_TERMS = msgspec.json.Decoder(tuple[str, ...])
_WITH_PREFERENCES = msgspec.json.Decoder(tuple[tuple[str, ...], dict[str, int]])


def decode_job_terms(text: str) -> tuple[tuple[str, ...], Preferences] | None:
    """The requirements and preferences in such a text; None where it is none: somebody else has written it."""
    try:
        if text.startswith("[["):
            requires, prefers = _WITH_PREFERENCES.decode(text)
            return requires, tuple(prefers.items())
        return _TERMS.decode(text), ()
    except msgspec.MsgspecError:
        return None


def decode_wants(text: str) -> Wants | None:
    """The same, taken apart."""
    terms = decode_job_terms(text)
    return None if terms is None else Wants.of(*terms)


_Scores: TypeAlias = defaultdict[tuple[str, str, str], dict[str, int | None]]
"""Where jobs stand that anybody may have, by queue, terms and lane. None: they are taken out."""

_WITHDRAW_FROM_LANE = """
-- KEYS: 1 the lane, 2 the set that it stands in.  ARGV: 1 what stands there for the lane, then jobs that leave it
for i = 2, #ARGV do redis.call('ZREM', KEYS[1], ARGV[i]) end
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('ZREM', KEYS[2], ARGV[1]) end
"""
"""The last job takes its lane along: what is left of lanes costs the next claim, and piles up where there is none. One
step, and a job is put into its lane before that is put into the set: so none is left in a lane that is in no set. Sent
whole: in a pipeline nobody looks whether the server has forgotten it."""


def follow(pipe: Pipeline, moves: Iterable[tuple[Job, bool]], *, step_ms: int, now_ms: int) -> None:
    """As `move`, of jobs."""
    scores: _Scores = defaultdict(dict)
    for job, offered_now in moves:
        if job.reserved is None and job.fairness_key is None:
            terms = encode_job_terms(job.requires, job.prefers)
            scores[job.queue, terms, ""][job.id] = _score(job, step_ms) if offered_now else None
            continue
        offered = Place.of(job, step_ms=step_ms, now_ms=now_ms) if offered_now else None
        for place in Place.each_of(job, step_ms=step_ms):
            if place != offered:  # a reservation may have ended since it was put there
                _move_one(pipe, scores, place, offered_now=False)
        if offered is not None:
            _move_one(pipe, scores, offered, offered_now=True)
    _move_together(pipe, scores)


def move(pipe: Pipeline, moves: Iterable[tuple[Place, bool]]) -> None:
    """Add the commands that make jobs findable (True) or take them out (False); of one job the last move counts.

    Jobs that anybody may have go with one command for each set, or lane in it, however many there are.
    """
    scores: _Scores = defaultdict(dict)
    for place, offered_now in moves:
        _move_one(pipe, scores, place, offered_now=offered_now)
    _move_together(pipe, scores)


def _move_one(pipe: Pipeline, scores: _Scores, place: Place, *, offered_now: bool) -> None:
    """Add the commands for one that is kept for a factory; of another note what it comes to, to go with others."""
    if not place.kept_for:
        scores[place.queue, place.terms, place.lane][place.job_id] = place.score if offered_now else None
    elif offered_now:
        _keep(pipe, place)
    else:
        pipe.zrem(place.key, place.job_id)


def _move_together(pipe: Pipeline, sets: _Scores) -> None:
    """Add the commands that put jobs with their scores into these sets and lanes; without one they go."""
    named: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for (queue, terms, lane), members in sets.items():
        key = members_key(READY, queue, terms)
        if there := {job_id: score for job_id, score in members.items() if score is not None}:
            pipe.zadd(LANE + key + lane if lane else key, there)
            if lane:
                pipe.zadd(key, {lane: min(there.values())}, lt=True)  # the pop corrects what is too low
            named[queue][terms] = None
        if gone := [job_id for job_id, score in members.items() if score is None]:
            if lane:
                pipe.eval(_WITHDRAW_FROM_LANE, 2, LANE + key + lane, key, lane, *gone)
            else:
                pipe.zrem(key, *gone)
    for queue, texts in named.items():
        pipe.sadd(sets_key(READY, queue), *texts)  # after their members: a pop tidies away sets that look empty


def name_sets(pipe: Pipeline, places: Iterable[Place]) -> None:
    """Add the commands that make the sets known that these are in."""
    named: defaultdict[str, set[str]] = defaultdict(set)
    for queue, name in (place.wants for place in places):
        named[sets_key(READY, queue)].add(name)
    for key, names in named.items():
        pipe.sadd(key, *names)


def offer(pipe: Pipeline, place: Place) -> None:
    """Add the commands that make a job findable."""
    move(pipe, [(place, True)])


def withdraw(pipe: Pipeline, place: Place) -> None:
    """Add the command that takes a job out."""
    move(pipe, [(place, False)])


def _keep(pipe: Pipeline, place: Place) -> None:
    """Add the commands that make a job findable which is kept for a factory."""
    pipe.zadd(place.key, {place.job_id: place.score})
    pipe.pexpire(place.key, KEPT_TTL_MS)
    name_sets(pipe, [place])


class JobSet(Value, frozen=True):
    """A set of a queue's ready jobs: who may have them, as its name tells."""

    name: str
    heir: str
    """The one factory that may have them. Empty: any that fits."""
    wants: Wants

    @classmethod
    def named(cls, name: str) -> Self | None:
        """None where it is no name of a set: somebody else has written it."""
        wants = decode_wants(terms_of(name))
        return None if wants is None else cls(name, heir_of(name), wants)


def serving(offers: tuple[str, ...], sets: Iterable[JobSet], *, factory_id: str) -> dict[str, int]:
    """The names of the sets that this factory with `offers` may have jobs of, and how well it meets each."""
    offered, whose = Offered(offers), ("", factory_id)
    return {
        each.name: each.wants.preference(offered) for each in sets if each.heir in whose and each.wants.met_by(offered)
    }


def sets_of(connection: Redis, prefix: str, queues: Iterable[str]) -> dict[str, list[str]]:
    """The names of the sets that each of these queues has, as `names` has them."""
    wanted = sorted(set(queues))
    with connection.pipeline(transaction=False) as pipe:
        for queue in wanted:
            pipe.smembers(sets_key(prefix, queue))
        found = cast(list[set[bytes]], pipe.execute())
    return {queue: names(there) for queue, there in zip(wanted, found, strict=True)}


def names(found: Iterable[bytes]) -> list[str]:
    """Names in one order, without those that are no text: nobody may be stopped by what somebody else has written."""
    return sorted(text for each in found if (text := text_of(each)) is not None)


def text_of(name: bytes) -> str | None:
    """A name as text; None where it is none."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None


def offered(job: Job) -> bool:
    """Whether a claim-next may be shown this job."""
    return job.state is STATE_READY and job.hold is None


def ready_terms(connection: Redis, queue: str, *, at_most: int) -> list[tuple[str, str]]:
    """The queue and set of ready jobs, once for each job, up to so many of each set."""
    found: list[tuple[str, str]] = []
    for text in names(cast(set[bytes], connection.smembers(sets_key(READY, queue)))):
        key = members_key(READY, queue, text)
        entries = names(cast(list[bytes], connection.zrange(key, 0, at_most - 1)))
        ready = sum(connection.zcard(LANE + key + entry) if entry.startswith("~") else 1 for entry in entries)
        found += [(queue, text)] * min(at_most, ready)
    return found


def tidy(connection: Redis) -> None:
    """As `tidy_sets`, of the sets of jobs."""
    tidy_sets(connection, READY, lambda name: decode_job_terms(terms_of(name)) is not None)


def tidy_sets(connection: Redis, prefix: str, ours: Callable[[str], bool]) -> None:
    """Forget sets that have no members any more, and what is none. The check and the removal are one step.

    `ours`: whether a name means something; of a digest the script looks whether there is what it stands for.
    """
    for key in connection.scan_iter(match=sets_key(prefix, "*"), count=1_000):
        queue = key.removesuffix(b"sets")
        members = queue + b"in:"
        there = cast(list[bytes], _TIDY.run(connection, [key, queue + b"state"], [members, queue + b"texts"]))
        wrong = [name for name in there if (text := text_of(name)) is None or not ours(text)]
        if wrong:
            log.warning("index_has_garbage", key=repr(key), count=len(wrong))
            connection.delete(*(members + name for name in wrong))
            connection.srem(key, *wrong)
            connection.delete(queue + b"state")


_TIDY = Script(
    """
-- KEYS: 1 sets of terms, 2 the state that they are in.  ARGV: prefix of their members, and what digests stand for.
-- Returns those that have members
local there = {}
if redis.call('TYPE', KEYS[1]).ok ~= 'set' then redis.call('DEL', KEYS[1]) end
for _, terms in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local kind = redis.call('TYPE', ARGV[1] .. terms).ok
  -- Here, in one step: a claim may come to wait in it, and name it anew, at any moment.
  local unknown = string.sub(terms, 1, 1) == '#' and redis.call('HEXISTS', ARGV[2], terms) == 0
  if kind == 'zset' and not unknown then
    there[#there + 1] = terms
  else
    redis.call('DEL', ARGV[1] .. terms)
    redis.call('SREM', KEYS[1], terms)
  end
end
-- Also where none has gone: who has seen others than these, whyever, looks again.
redis.call('DEL', KEYS[2])
return there
"""
)
