"""A grant to a claim that waited must be read soon: a client that died while it waited must not keep a job for a ttl.

The reply itself is the hint: who waits, blocks on the reply channel and takes it at once. One that still lies there
after `READ_WITHIN_MS` is taken back, in one step with the look at it, and its leases are released. The next to get
them is somebody who reads, however many others have died with this one.

A Redis that went back to an earlier state (a failover, an old snapshot) shows replies as unread that were read. So the
release says what it rests on, and `transitions.release` takes no lease that was renewed or that a client was told of
since. What remains: a holder whose Redis went back before its first renewal, a sixth of its ttl after the grant,
may lose the lease. What it sends from then on is refused, and its first renewal tells it so.
"""

import json
from collections.abc import Iterator

import msgspec
import structlog
from redis import Redis
from redis.client import Pipeline

from broker import claim_next, queues, replies, silent
from broker.answers import Answer, Word
from broker.door import OPEN_DOOR, Door
from broker.entropy import Entropy
from broker.messages import Claim, Release, Request
from broker.scripts import Script
from datastore.decoding import UNREADABLE, from_json
from datastore.value import Value

log = structlog.get_logger(__name__)

UNREAD = "broker:unread"
"""Sorted set: grants to claims that waited, by when they must have been read, broker time."""
READ_WITHIN_MS = 2_000
"""Longer than a reader takes to connect again, far below a ttl."""
LOOK_MAX = 256
LOOK_BYTES = 32 * 1024 * 1024
"""Of replies in one look, some 0.3 s of Redis. Whoever leaves more unread keeps what it was granted for a ttl; whoever
comes behind it is for the next look.
"""
REPLY_COST = 1_024
"""Of those bytes for each reply, besides its own: Redis takes as long to look at one, however short it is."""

_TAKE_BACK = Script(
    """
-- KEYS: 1 grants to look after.  ARGV: now, at most, of how many bytes of replies, until when one must be read that is
-- told now, how many bytes a reply counts besides its own, how many a channel of ours holds.  Returns each reply that
-- nobody has read, taken off its channel
local STEP = 8
local unread, channels, room = {}, {}, tonumber(ARGV[3])

-- What lies on a channel, by request id, the latest first. Nobody else is served meanwhile: each channel is read once
-- in a look, and all of them together no further than there is room.
local function lying_on(channel)
  if not channels[channel] then
    local replies, last = {}, -1
    while room > 0 and -last <= tonumber(ARGV[6]) do
      local some = redis.pcall('LRANGE', channel, last - STEP + 1, last)
      if #some == 0 then break end
      for _, reply in ipairs(some) do
        room = room - #reply - ARGV[5]
        -- behind the signature, where there is one
        local _, _, at, id, told = string.find(reply, '^[^{]*(){"v":1,"request_id":"([%w_-]+)","server_now_ms":(%d+),')
        if id then
          replies[id] = replies[id] or {}
          table.insert(replies[id], {reply, at, tonumber(told)})
        end
      end
      last = last - STEP
    end
    channels[channel] = replies
  end
  return channels[channel]
end

-- What may be read for longer was told before time was set back, or by nobody of ours: it shall not lie there for ever.
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[4], '+inf', 'LIMIT', 0, ARGV[2])) do
  redis.call('ZADD', KEYS[1], ARGV[4], entry)
end
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])) do
  local is_json, known = pcall(cjson.decode, entry)
  local ours = is_json and type(known) == 'table' and type(known.request_id) == 'string'
  ours = ours and type(known.channel) == 'string'  -- else nobody of ours has written it
  if ours and room <= 0 and not channels[known.channel] then break end
  redis.call('ZREM', KEYS[1], entry)
  if ours then
    for _, found in ipairs(lying_on(known.channel)[known.request_id] or {}) do
      local reply, at, told = unpack(found)
      -- What a later copy of the claim was told is read by nobody where the client had its answer, and does not wait.
      local this_one = known.told_ms == nil or known.told_ms == told  -- an older release has not noted when
      if this_one and redis.call('LREM', known.channel, -1, reply) == 1 then
        unread[#unread + 1] = {entry, string.sub(reply, at)}
      end
    end
  end
end
return unread
"""
)


_UNLESS_TOLD = """
-- KEYS: 1 grants to look after, 2 what is remembered of the claim.  ARGV: by when it must be read, and the grant
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2]) end
"""
"""Sent whole: in a pipeline nobody looks whether the server has forgotten it."""


def expect_reader(pipe: Pipeline, request: Request, answer: Answer, *, key_id: str | None, now_ms: int) -> None:
    """Add the command that has a grant looked after, where its claim waited; before the one that remembers it.

    One that was told before is looked after already. Who has read it may read nothing now, and hold it all the same: a
    worker that was lost between its replies and the end of its batch has the claim settled again.
    """
    if type(request) is not Claim or not claim_next.waited(request.body) or not answer.grants:
        return
    entry = {
        "channel": replies.reply_key(request.factory_id, request.instance),
        "request_id": request.request_id,
        "factory_id": request.factory_id,
        "incarnation": request.incarnation,
        "instance": request.instance,
        "key_id": key_id,
        "told_ms": now_ms,
    }
    if answer.word is Word.REPLAYED:
        told = claim_next.answer_key(claim_next.claim_id(request))
        pipe.eval(_UNLESS_TOLD, 2, UNREAD, told, now_ms + READ_WITHIN_MS, json.dumps(entry))
    else:
        pipe.zadd(UNREAD, {json.dumps(entry): now_ms + READ_WITHIN_MS})


def take_back_unread(connection: Redis, entropy: Entropy, *, now_ms: int, door: Door = OPEN_DOOR) -> int:
    """Release the leases of grants that nobody has read in time. Returns how many there were.

    A client that was only slow repeats its request and is told `request_expired {lease_over}`.
    """
    until_ms = now_ms + READ_WITHIN_MS
    arguments = [now_ms, LOOK_MAX, LOOK_BYTES, until_ms, REPLY_COST, replies.REPLIES_MAX]
    unread = _TAKE_BACK.run(connection, [UNREAD], arguments)
    found = [each for entry, reply in unread for each in _releases(entry, reply, entropy)]
    silent.stand_behind(connection, (queue for queue, _, _ in found))
    with connection.pipeline(transaction=False) as pipe:
        for _, release, key_id in found:
            queues.enqueue(pipe, release, wire="intake", sign=door.forward(key_id).again)
        pipe.execute()
    return len(found)


class _Sender(Value, frozen=True):
    """Who was told of a grant."""

    factory_id: str
    incarnation: str
    instance: str
    key_id: str | None = None


class _Grant(Value, frozen=True):
    job_id: str
    queue: str
    epoch: int
    token: str


class _Granted(Value, frozen=True):
    """What a reply grants: one job, or several."""

    grants: tuple[_Grant, ...] = ()
    token: str | None = None


class _Reply(Value, frozen=True):
    body: msgspec.Raw


def _releases(entry: bytes, reply: bytes, entropy: Entropy) -> Iterator[tuple[str, Release, str | None]]:
    """What gives back what this reply grants: the queue of each job, the request, and the key its sender signs with.

    None where nobody of ours has written that: others of the same look are not to stand for it.
    """
    try:
        sender = from_json(entry, _Sender)
        body = from_json(reply, _Reply).body
        granted = from_json(body, _Granted)
        one = () if granted.token is None else (from_json(body, _Grant),)
        made = [(grant.queue, _release(sender, grant, entropy), sender.key_id) for grant in granted.grants or one]
    except (ValueError, *UNREADABLE) as error:
        log.warning("grant_not_taken_back", error=type(error).__name__)  # no more: it may hold a token
        return
    yield from made


def _release(sender: _Sender, grant: _Grant, entropy: Entropy) -> Release:
    return Release.model_validate(
        {
            "factory_id": sender.factory_id,
            "incarnation": sender.incarnation,
            "instance": sender.instance,
            "request_id": entropy.write_id(),
            "body": {
                "job_id": grant.job_id,
                "epoch": grant.epoch,
                "token": grant.token,
                "reason": "nobody read the grant",
                "unread": True,
            },
        }
    )
