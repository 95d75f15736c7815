"""Small random histories: of a sound broker under a bad network, and the same with a lie in them."""

import random
from dataclasses import dataclass, field
from typing import Any

import msgspec

from broker.history import Record

OPS = ("claim", "claim", "claim", "renew", "complete", "fail", "release", "progress", "hand_over")
OPERATORS = ("cancel", "redrive", "revoke", "hold", "lift", "get_job")
ENDS = ("complete", "fail", "release", "hand_over")
"""Several factories name such a request alike now and then."""
HOLDERS = ("renew", "progress", *ENDS)
RUNNING = 4
"""Calls on their way at once, at most."""
AFTER = {
    "complete": ("succeeded",),
    "fail": ("scheduled", "scheduled", "failed", "cancelled"),
    "release": ("ready", "ready", "cancelled"),
}
WAITING = ("ready", "scheduled")
TERMINAL = ("succeeded", "failed", "cancelled")


@dataclass
class Job:
    """The truth about a job."""

    state: str | None = None
    epoch: int = 0
    lease: tuple[str, str, str, str] | None = None
    """Factory, incarnation, request, token."""
    recent: dict[tuple[str, str], tuple[str, int, str]] = field(default_factory=dict)
    """What each factory's request has done."""
    claimed: set[str] = field(default_factory=set)


@dataclass
class Copy:
    """A request on its way."""

    invoked: Record
    count: int
    """Of a claim for any job: how many."""
    answers: list[dict[str, Any]] | None = None


class Broker:
    """Settles requests as the design says; now and then it refuses by a stale read, or does something unseen."""

    def __init__(self, chance: random.Random) -> None:
        self.jobs = {"j": Job(), "k": Job()}
        self._chance = chance
        self._past: list[tuple[str, int, str]] = []

    def settle(self, asked: Record, count: int) -> list[dict[str, Any]]:
        """The answer, of a claim for several a part for each job."""
        if asked.job is not None:
            return [self._settle_one(asked.job, asked)]
        job_ids = self._any_jobs((asked.factory, asked.incarnation, asked.request), count)
        answers = [self._settle_one(job_id, asked) for job_id in job_ids]
        return answers or [{"type": "refused", "answer": "none_available"}]

    def _settle_one(self, job_id: str, asked: Record) -> dict[str, Any]:
        job = self.jobs[job_id]
        answer = self._settle(job, asked)
        self._past.append((job_id, job.epoch, job.state or "ready"))
        if answer["type"] == "refused" and job.state is not None:
            seen = [known for known in self._past if known[0] == job_id]
            _, epoch, state = self._chance.choice(seen) if self._chance.random() < 0.2 else seen[-1]
            answer |= {"seen": epoch, "state": state}
        return {"job": job_id, **answer}

    def unseen(self) -> None:
        """An expiry, perhaps at the cap."""
        job = self.jobs[self._chance.choice(["j", "j", "k"])]
        if job.state == "leased":
            self._end(job, "failed" if self._chance.random() < 0.15 else "ready")
        elif job.state in WAITING and self._chance.random() < 0.05:
            job.state = "failed"

    def _any_jobs(self, who: tuple[str, str, str], count: int) -> list[str]:
        """Of a claim that names none: those that it has already, or some that are free."""
        has = [name for name, job in self.jobs.items() if job.lease is not None and job.lease[:3] == who]
        free = [name for name, job in self.jobs.items() if job.state in WAITING]
        return (has or self._chance.sample(free, len(free)))[:count]

    def _settle(self, job: Job, asked: Record) -> dict[str, Any]:
        if asked.op == "submit":
            return self._submit(job, asked)
        if job.state is None:
            return {"type": "refused", "answer": "not_found"}
        if asked.op == "get_job":
            return {"type": "ok", "answer": "ok", "seen": job.epoch, "state": job.state}
        if asked.op == "claim":
            return self._claim(job, asked)
        if _who(asked) in job.recent:
            did, epoch, state = job.recent[_who(asked)]
            return {"type": "ok", "answer": "replayed", "did": did, "epoch": epoch, "state": state}
        return self._operate(job, asked) if asked.op in OPERATORS else self._hold(job, asked)

    def _submit(self, job: Job, asked: Record) -> dict[str, Any]:
        if job.state is None:
            job.state, job.recent[_who(asked)] = "ready", ("submit", 0, "ready")
            return {"type": "ok", "answer": "ok", "state": "ready"}
        if _who(asked) in job.recent:
            return {"type": "ok", "answer": "replayed", "state": job.state}
        return {"type": "refused", "answer": "conflict", "reason": "exists"}

    def _claim(self, job: Job, asked: Record) -> dict[str, Any]:
        who = (asked.factory, asked.incarnation, asked.request)
        if job.lease is not None and job.lease[:3] == who:
            return {"type": "ok", "answer": "replayed", "epoch": job.epoch, "token": job.lease[3]}
        if job.state not in WAITING or asked.request in job.claimed:
            return {"type": "refused", "answer": "conflict"}
        job.epoch += 1
        job.state, job.lease = "leased", (*who, f"t{self._chance.getrandbits(24)}")
        job.claimed.add(asked.request)
        return {"type": "ok", "answer": "granted", "epoch": job.epoch, "token": job.lease[3]}

    def _hold(self, job: Job, asked: Record) -> dict[str, Any]:
        held = job.lease is not None and (job.epoch, job.lease[0], job.lease[3]) == (
            asked.epoch,
            asked.factory,
            asked.token,
        )
        if not held:
            return {"type": "refused", "answer": "lease_lost"}
        if asked.op in ("renew", "progress"):
            return {"type": "ok", "answer": "renewed"}
        return self._done(job, asked, self._chance.choice(AFTER.get(asked.op, ("ready",))))

    def _operate(self, job: Job, asked: Record) -> dict[str, Any]:
        if asked.op == "cancel" and job.state not in TERMINAL:
            return self._done(job, asked, "leased" if job.state == "leased" else "cancelled")
        if asked.op == "redrive" and job.state in ("failed", "cancelled"):
            return self._done(job, asked, "ready")
        if asked.op == "revoke" and job.state == "leased":
            return self._done(job, asked, "ready")
        if asked.op in ("hold", "lift"):
            return self._done(job, asked, str(job.state))
        return {"type": "refused", "answer": "conflict"}

    def _done(self, job: Job, asked: Record, state: str) -> dict[str, Any]:
        job.recent[_who(asked)] = (asked.op, job.epoch, state)
        if state != "leased":
            self._end(job, state)
        return {"type": "ok", "answer": "ok", "epoch": job.epoch, "state": state}

    def _end(self, job: Job, state: str) -> None:
        job.state, job.lease = state, None


def _who(asked: Record) -> tuple[str, str]:
    """A request id is its factory's own."""
    return asked.request, asked.factory


class Clients:
    """Two factories and an operator, whose requests and answers are late, doubled and lost."""

    def __init__(self, chance: random.Random) -> None:
        self.records: list[Record] = []
        self._chance = chance
        self._broker = Broker(chance)
        self._running: list[Copy] = []
        self._asked: list[Record] = []
        self._grants: list[Record] = []
        self._now = 0
        self._numbers = 0

    def run(self, calls: int) -> list[Record]:
        """A history of so many calls."""
        self._begin("submit", job="j")
        if self._chance.random() < 0.3:
            self._begin("submit", job="k")
        while self._numbers < calls or (self._running and self._chance.random() < 0.9):
            self._now += self._chance.randrange(2)
            self._step(calls)
        return self.records

    def _step(self, calls: int) -> None:
        dice = self._chance.random()
        if dice < 0.3 and self._numbers < calls and len(self._running) < RUNNING:
            self._ask()
        elif dice < 0.35:
            self._broker.unseen()
        elif self._running:
            copy = self._chance.choice(self._running)
            if copy.answers is None:
                # Settled twice, where the worker died before it replied.
                for _ in range(2 if self._chance.random() < 0.1 else 1):
                    copy.answers = self._broker.settle(copy.invoked, copy.count)
            else:
                self._running.remove(copy)
                self._learn(copy)

    def _ask(self) -> None:
        if self._chance.random() < 0.15:
            again = self._chance.choice(self._asked)
            self._begin(again.op, again.factory, again=again, job=again.job, epoch=again.epoch, token=again.token)
            return
        op = self._chance.choice(OPS if self._chance.random() < 0.8 else OPERATORS)
        if op in OPERATORS:
            self._begin(op, job=self._chance.choice("jjjjk"))
        elif op != "claim" and self._grants and self._chance.random() < 0.8:
            grant = self._chance.choice(self._grants[-2:])
            self._begin(op, grant.factory, job=grant.job, epoch=grant.epoch, token=grant.token)
        elif self._chance.random() < 0.1:
            self._begin("submit", job="k")
        else:
            self._begin("claim", self._chance.choice("ab"), job=self._chance.choice(["j", "j", None]))

    def _begin(self, op: str, by: str = "o", *, again: Record | None = None, **fields: Any) -> None:
        self._numbers += 1
        fresh = "done" if op in ENDS and self._chance.random() < 0.2 else f"r{self._numbers}"
        invoked = Record(
            type="invoke",
            at=self._now,
            client=f"client-{by}",
            call=self._numbers,
            op=op,
            request=again.request if again else fresh,
            factory=by,
            incarnation=f"{by}-1",
            **fields,
        )
        self.records.append(invoked)
        self._asked.append(invoked)
        self._running.append(Copy(invoked, self._chance.choice((1, 2))))

    def _learn(self, copy: Copy) -> None:
        if self._chance.random() < 0.12:
            if self._chance.random() < 0.5:  # otherwise the client is gone, and its call just has no end
                self.records.append(_ended(copy.invoked, self._now, {"type": "unknown"}))
            return
        assert copy.answers is not None
        records = [_ended(copy.invoked, self._now, answer) for answer in copy.answers]
        self.records += records
        self._grants += [record for record in records if record.op == "claim" and record.type == "ok"]


def wild(seed: int) -> list[Record]:
    """A few answers at random moments, as no broker would ever give them, or perhaps one would."""
    chance = random.Random(seed)
    if chance.random() < 0.1:
        return _wandering(chance)
    records = []
    for number in range(chance.randint(2, 6)):
        op = chance.choice(["claim", "claim", "claim", "submit", *AFTER, *OPS, *OPERATORS])
        sent = chance.randrange(12)
        epoch = chance.randint(1, 3) if chance.random() < 0.95 else 0
        holder = chance.choice("ab") if chance.random() < 0.1 else "a" if epoch == 2 else "b"
        asked = Record(
            type="invoke",
            at=sent,
            client="c",
            call=number,
            op=op,
            request=f"r{number}" if chance.random() < 0.8 else "r",
            factory=holder,
            incarnation=holder,
            job="j",
            epoch=epoch if op in HOLDERS else None,
        )
        ended = _effect(asked, chance, epoch, f"t{epoch}" if chance.random() < 0.9 else "t1")
        if chance.random() < 0.05:
            ended["epoch"] = None
        if op in ("redrive", "get_job") and chance.random() < 0.5:
            ended = {"type": "refused", "seen": epoch, "state": chance.choice((*WAITING, "leased", "failed"))}
        dead = chance.random() < 0.1
        records += [asked] if dead else [asked, _ended(asked, sent + chance.randrange(8), ended)]
    return records


def _wandering(chance: random.Random) -> list[Record]:
    """A claim for any job, or for two, that is repeated, and perhaps gets others."""
    records = []
    for number in range(chance.randint(2, 4)):
        sent, op = chance.randrange(8), chance.choice(["claim", "claim", "renew"])
        request, jobs = ("r", chance.choice((1, 2))) if op == "claim" else (f"r{number}", 1)
        fields: dict[str, Any] = {"op": op, "request": request, "factory": "a", "incarnation": "a"}
        asked = Record(type="invoke", at=sent, client="c", call=number, **fields)
        at = sent + chance.randrange(4)
        answers = [{"type": "ok", "job": job, "epoch": 1, "token": f"t-{job}"} for job in chance.sample("jkl", jobs)]
        records += [asked, *(_ended(asked, at, answer) for answer in answers)]
    return records


def _ended(invoked: Record, now: int, answer: dict[str, Any]) -> Record:
    return msgspec.structs.replace(invoked, at=now, sent=invoked.at, **answer)


def sound(seed: int, *, calls: int = 14) -> list[Record]:
    """A history of a sound broker."""
    chance = random.Random(seed)
    return Clients(chance).run(chance.randint(4, calls))


def corrupted(records: list[Record], seed: int) -> list[Record]:
    """The same history with one to three lies in it."""
    chance = random.Random(seed)
    records = list(records)
    for _ in range(chance.randint(1, 3)):
        ended = [place for place, record in enumerate(records) if record.type in ("ok", "refused", "unknown")]
        good = [place for place in ended if records[place].type == "ok" and records[place].op != "submit"]
        if not ended:
            break
        place = chance.choice(good if good and chance.random() < 0.7 else ended)
        records[place] = _lie(records[place], chance)
    return records


def _lie(record: Record, chance: random.Random) -> Record:
    """Another epoch, token, state, time, request or job; or an effect where there was none."""
    sent = record.sent if record.sent is not None else record.at
    match chance.randrange(9):
        case 0 | 1:
            epoch = chance.choice([max(0, (record.epoch or 1) + step) for step in (-1, 1)] * 3 + [None])
            return msgspec.structs.replace(record, epoch=epoch)
        case 2:
            return msgspec.structs.replace(record, token=chance.choice(["t1", "t2"]))
        case 3:
            if record.op == "redrive":
                return record  # it leaves a job ready, whatever it says
            return msgspec.structs.replace(record, state=chance.choice((*WAITING, *TERMINAL, "leased")))
        case 4:
            later = sent + chance.randrange(4)
            return msgspec.structs.replace(record, sent=later, at=later + chance.randrange(3))
        case 5:
            return msgspec.structs.replace(record, at=sent)
        case 6:
            return msgspec.structs.replace(record, request=chance.choice(["r1", "r2", "r3"]))
        case 7:
            return msgspec.structs.replace(record, job="k" if record.job == "j" else "j")
        case _:
            epoch, token = record.epoch or chance.randint(0, 3), record.token or "t1"
            return msgspec.structs.replace(record, **_effect(record, chance, epoch, token))


def _effect(asked: Record, chance: random.Random, epoch: int, token: str) -> dict[str, Any]:
    """A good answer to a call of this kind."""
    fields: dict[str, Any] = {"type": "ok", "answer": "ok", "seen": None, "epoch": epoch, "job": asked.job or "j"}
    match asked.op:
        case "claim" | "renew" | "progress":
            return {**fields, "token": token}
        case "complete" | "fail" | "release" | "hand_over":
            return {**fields, "token": token, "state": chance.choice(AFTER.get(asked.op, ("ready",)))}
        case "submit":
            return {**fields, "epoch": None}
        case "get_job":
            return {**fields, "epoch": None, "seen": epoch, "state": chance.choice((*WAITING, "leased", *TERMINAL))}
        case "cancel":
            return {**fields, "state": chance.choice(("leased", "cancelled"))}
        case "hold" | "lift":
            return {**fields, "state": chance.choice((*WAITING, "leased", *TERMINAL))}
        case _:
            return {**fields, "state": "ready"}


__all__ = ["corrupted", "sound", "wild"]
