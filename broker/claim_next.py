"""Claim-next on the Redis side: which claims were answered before, and which wait parked. See also `proposals`."""

import json
from collections.abc import Sequence
from typing import TypeGuard

from redis import Redis
from redis.client import Pipeline

from broker import parked_sets, replies, waiting
from broker.answers import Answer, Word, wire
from broker.messages import Claim, ClaimBody
from broker.queues import intake_key
from broker.scripts import Script
from broker.signing import UNSEALED, Seal
from broker.wire_types import WAIT_MS_MAX
from datastore.decoding import UNREADABLE, from_json
from datastore.value import Value

ANSWER_TTL_MS = 900_000
"""How long the answer to a claim-next is remembered (design §8)."""
ANSWER = "broker:answer:"
"""Before the id of a claim: which jobs it got, or may have got."""
MARK = "broker:settling:"
"""Before the id of a claim: which worker settles it, or died over it, and which jobs it was proposed."""
WAITING = "broker:waiting"
"""Hash: request id → the parked envelope and where it is parked."""
WAIT_ENDS = "broker:waiting:ends"
"""Sorted set: request id by the end of its wait, broker time."""
EXPIRE_MAX = 256
"""Waits ended in one call, of some 6 ms."""
EXPIRE_CALLS_MAX = 16
"""Calls in a row: what a fleet waits for that began together ends together, and its clients wait no more than seconds
beyond that."""
ENDLESS_MAX = 1_000
"""Waiting claims looked at in one call, where one of them has no end."""
WOKEN_FOR = f"{WAITING}:for:"
"""Before the id of a claim: the set of the job that it was woken for. Nobody else was."""


UNPARK = (
    parked_sets.FORGET_EMPTY
    + f"local WAITING_OF, WAITING_LED = '{waiting.OF}', '{waiting.LED}'"
    + """
-- What the record of a waiting claim says; nil where there is none, or somebody else has written it.
local function parked_claim(record)
  if not record then return nil end
  local is_json, parked = pcall(cjson.decode, record)
  if not is_json or type(parked) ~= 'table' then return nil end
  for _, name in ipairs({'envelope', 'parked_in', 'mark', 'reply_key', 'reply'}) do
    if type(parked[name]) ~= 'string' then return nil end
  end
  return parked
end

-- Take a waiting claim out: everything that is known of it, and its mark. Returns its record.
local function unpark(id)
  local parked = parked_claim(redis.call('HGET', KEYS[1], id))
  redis.call('HDEL', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
  local factory = string.match(id, '^[^:]*')
  redis.pcall('ZREM', WAITING_OF .. factory, id)
  redis.pcall('ZREM', WAITING_LED .. factory, id)
  if not parked then return nil end
  redis.pcall('ZREM', parked.parked_in, id)
  forget_empty(parked.parked_in)
  redis.call('DEL', parked.mark)
  return parked
end
"""
)

_END_WAITS = Script(
    UNPARK
    + """
-- KEYS: 1 waiting, 2 their ends, 3 the intake of claims.  ARGV: now, at most, reply ttl, when the last wait ends that
-- begins now, the first of the replies that a channel keeps, and how many claims are looked at of which one has no end
-- What ends later was noted before time was set back, or by nobody of ours: it shall not wait for ever.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[4], '+inf', 'LIMIT', 0, ARGV[2])) do
  redis.call('ZADD', KEYS[2], ARGV[4], id)
end
local ended = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ended) do
  local parked = unpark(id)
  if parked then
    redis.pcall('RPUSH', parked.reply_key, parked.reply)
    redis.pcall('LTRIM', parked.reply_key, ARGV[5], -1)  -- as with any reply: its client may read none
    redis.pcall('PEXPIRE', parked.reply_key, ARGV[3])
  end
end
-- A claim without an end would wait for ever: Redis was emptied while it was written down. It is settled again. Of many
-- claims some are looked at in each call, others in the next.
if redis.call('HLEN', KEYS[1]) > redis.call('ZCARD', KEYS[2]) then
  for _, id in ipairs(redis.call('HRANDFIELD', KEYS[1], ARGV[6])) do
    local parked = not redis.call('ZSCORE', KEYS[2], id) and unpark(id)
    if parked then redis.call('LPUSH', KEYS[3], parked.envelope) end
  end
end
return #ended
"""
)


class Parked(Value, frozen=True):
    """What is written down of a waiting claim, as far as it is looked for."""

    factory_id: str
    queue: str
    reply_key: str

    @classmethod
    def read(cls, record: bytes) -> "Parked | None":
        """None: somebody else has written it."""
        try:
            return from_json(record, cls)
        except UNREADABLE:
            return None


def claim_id(claim: Claim) -> str:
    """What a claim-next is known by here. Two factories may use one request id, and neither gets the other's answer."""
    return f"{claim.factory_id}:{claim.request_id}"


def answer_key(claim_id: str) -> str:
    """Where it is remembered which jobs a claim-next got, or may have got."""
    return ANSWER + claim_id


def mark_key(claim_id: str) -> str:
    """Which worker settles a claim-next, or died over it, and which jobs it was proposed."""
    return MARK + claim_id


def is_claim_next(request: object) -> TypeGuard[Claim]:
    """Whether a request asks for any job that fits."""
    return type(request) is Claim and request.body.job_id is None


def waited(body: ClaimBody) -> bool:
    """Whether this copy of a claim was parked before: since then another client may have sent the claim."""
    return body.wait_until_ms is not None


def has_waited_enough(body: ClaimBody, now_ms: int) -> bool:
    """Whether this copy was parked before, and its wait is over: its client is told that there is nothing, or was told
    so already, and whoever comes with a copy of it gets nothing new.
    """
    return body.wait_until_ms is not None and body.wait_until_ms <= now_ms


def remember(pipe: Pipeline, claim: Claim, answer: Answer, *, maybe: Sequence[str] = ()) -> None:
    """Add the command that keeps which jobs a claim-next was granted, or `maybe` was.

    What was remembered before stays: an answer without a grant says nothing of what an earlier copy was granted.
    """
    granted = [grant["job_id"] for grant in answer.grants] or maybe
    if granted:
        # Not pipe.set: what it checks is constant here, and costs a worker more than the rest of the command.
        key = answer_key(claim_id(claim))
        pipe.execute_command("SET", key, " ".join(granted), "PX", ANSWER_TTL_MS)  # type: ignore[no-untyped-call]


def lay_down(pipe: Pipeline, claims: Sequence[Claim]) -> None:
    """Add the command that says that these are in nobody's hands any more. After what is remembered of them."""
    if claims:
        pipe.delete(*(mark_key(claim_id(claim)) for claim in claims))


def wait_ends_ms(claim: Claim, now_ms: int) -> int:
    """When a waiting claim gives up, broker time; the same end however often it is parked."""
    latest = now_ms + claim.body.wait_ms
    return min(latest, claim.body.wait_until_ms or latest)


def waits(claim: Claim, now_ms: int) -> bool:
    """Whether it has said that it would wait, and has not for so long yet."""
    return bool(claim.body.wait_ms) and wait_ends_ms(claim, now_ms) > now_ms


def park(pipe: Pipeline, claim: Claim, now_ms: int, *, again: Claim | None = None, seal: Seal = UNSEALED) -> None:
    """Add the commands that keep a claim waiting. What it is told at the end of its wait is prepared here.

    `again`: what is to be settled then, where that is not `claim`.
    """
    ends_ms = wait_ends_ms(claim, now_ms)
    again = again or claim
    # Our own value, within the field's limits.
    come = again.model_copy(update={"body": again.body.model_copy(update={"wait_until_ms": ends_ms})})
    body = claim.body
    reply = wire(Answer(Word.NONE_AVAILABLE), claim.request_id, ends_ms)
    channel = replies.reply_key(claim.factory_id, claim.instance)
    record = {
        "parked_in": parked_sets.members_key(body.queue, body.offers),  # first: see `waking`
        "envelope": seal.again(come.model_dump_json(exclude_none=True)),
        "mark": mark_key(claim_id(claim)),
        "factory_id": claim.factory_id,
        "queue": body.queue,
        "reply_key": channel,
        "reply": seal.reply(channel, replies.encode(reply)).decode(),
    }
    # Its end comes first: where the connection breaks in between, whatever was written is cleared away with that.
    pipe.zadd(WAIT_ENDS, {claim_id(claim): ends_ms})
    waiting.note(pipe, claim.factory_id, claim_id(claim), ends_ms, led=not again.body.offers)
    pipe.hset(WAITING, claim_id(claim), json.dumps(record))
    parked_sets.park(pipe, body.queue, body.offers, claim_id(claim), ends_ms - body.wait_ms)


def end_waits(connection: Redis, now_ms: int) -> int:
    """Answer `none_available` to claims whose wait is over; returns how many. One that has no end is settled again.

    Of very many the rest are left for the next time.
    """
    arguments = [now_ms, EXPIRE_MAX, replies.REPLY_TTL_MS, now_ms + WAIT_MS_MAX, -replies.REPLIES_MAX, ENDLESS_MAX]
    ended = 0
    for _ in range(EXPIRE_CALLS_MAX):
        now_ended = int(_END_WAITS.run(connection, [WAITING, WAIT_ENDS, intake_key("claims")], arguments))
        ended += now_ended
        if now_ended < EXPIRE_MAX:
            break
    return ended
