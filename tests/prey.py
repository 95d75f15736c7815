"""One worker that is attacked, and one job whose holder must not notice."""

import json
import re
from collections.abc import Callable
from typing import Any, cast
from uuid import uuid4

from broker.queues import RedisValue, rq_job_hash
from tests.caller import Caller
from tests.fleet import Fleet
from tests.processes import wait_for
from workers.taking import DEAD


class Prey:
    """One worker, and one job that a caller holds. Nothing below may change that job."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.redis = fleet.redis
        # Nobody reads its log: thousands of refusals would fill the pipe and stop it.
        self.worker = fleet.start_worker({"BROKER_LOG_LEVEL": "ERROR"})
        self.holder = Caller(fleet.redis, "holder")
        self.holder.submit("victim")
        self.lease = self.holder.hold("victim")
        self.before = self.look()

    def look(self) -> Any:
        """The victim as stored. Also proof that the worker serves."""
        return self.holder.ask("get_job", job_id="victim")["body"]["job"]

    def envelope(self, op: str = "complete", **changes: Any) -> dict[str, Any]:
        """A valid request of the holder that would change the victim, with these top-level fields instead."""
        body = {"complete": self.lease, "claim": {"job_id": "victim"}, "submit": {"job_id": uuid4().hex}}[op]
        return {
            "v": 1, "op": op, "request_id": uuid4().hex, "factory_id": "holder",
            "incarnation": "start-1", "instance": "x", "body": body, **changes,
        }  # fmt: skip

    def letters(self) -> list[dict[str, Any]]:
        """The dead-letter list, newest first."""
        return [json.loads(text) for text in cast(list[bytes], self.redis.lrange(DEAD, 0, -1))]

    def buried(self, poison: Callable[[], object]) -> dict[str, Any]:
        """Send the poison; the one letter it left."""
        self.redis.delete(DEAD)
        poison()
        wait_for(lambda: self.redis.llen(DEAD), "a dead letter")
        [letter] = self.letters()
        return letter

    def check(self) -> None:
        """Nothing has happened to the victim, to the worker, or to the secrecy of its token."""
        assert self.look() == self.before
        assert self.worker.poll() is None, "the worker has ended"
        wait_for(lambda: not self.redis.keys("broker:inflight:*"), "nothing is left in flight")  # after the reply
        letters = "".join(json.dumps(letter, ensure_ascii=False) for letter in self.letters())
        # As whoever looks for one would: in UTF-16 there are NULs between its digits, or what stands for those, and
        # the digits may be escaped.
        letters = re.sub(r"\\+u00([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), letters)
        letters = letters.replace("\0", "").replace("?", "")
        assert self.lease["token"] not in letters, "a token lies in the dead-letter list"
        assert self.lease["token"][:16] not in letters, "half a token lies in the dead-letter list"


def intake(prey: Prey, text: bytes | str, queue: str = "claims") -> None:
    prey.redis.rpush(f"broker:in:{queue}", text)


def rq_job(prey: Prey, data: bytes | str, **fields: str | bytes) -> str:
    """An rq job made by hand, as anybody who may write rq's keys can."""
    rq_id = uuid4().hex
    written: dict[RedisValue, RedisValue] = {**rq_job_hash("{}", queue="claims"), "data": data}
    prey.redis.hset(f"rq:job:{rq_id}", mapping=written | dict(fields.items()))
    prey.redis.rpush("rq:queue:claims", rq_id)
    return rq_id
