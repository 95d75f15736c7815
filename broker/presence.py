"""A grant to a claim that waited must be read soon: a client that died while it waited must not keep a job for a ttl.

The reply itself is the hint: who waits, blocks on the reply channel and takes it at once. One that still lies there
after `READ_WITHIN_MS` is taken back, in one step with the look at it, and its leases are released. The next to get
them is somebody who reads, however many others have died with this one.

A Redis that went back to an earlier state (a failover, an old snapshot) shows replies as unread that were read. So the
release says what it rests on, and `transitions.release` takes no lease that was renewed or that another client was told
of since. What remains: a holder whose Redis went back before its first renewal, a sixth of its ttl after the grant,
may lose the lease. What it sends from then on is refused, and its first renewal tells it so.
"""

import json
from typing import Any

import pydantic_core
from redis import Redis
from redis.client import Pipeline

from broker import claim_next, queues, replies, silent
from broker.answers import Answer
from broker.door import OPEN_DOOR, Door
from broker.entropy import Entropy
from broker.messages import Claim, Release, Request
from broker.scripts import Script

UNREAD = "broker:unread"
"""Sorted set: grants to claims that waited, by when they must have been read, broker time."""
READ_WITHIN_MS = 2_000
"""Longer than a reader takes to connect again, far below a ttl."""
LOOK_MAX = 256

_TAKE_BACK = Script(
    """
-- KEYS: 1 grants to look after.  ARGV: now, at most.  Returns each reply that nobody has read, taken off its channel
local unread = {}
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])) do
  redis.call('ZREM', KEYS[1], entry)
  local is_json, known = pcall(cjson.decode, entry)
  local ours = is_json and type(known) == 'table' and type(known.request_id) == 'string'
  if ours and type(known.channel) == 'string' then  -- else nobody of ours has written it
    local start = '{"v":1,"request_id":"' .. known.request_id .. '",'
    for _, reply in ipairs(redis.pcall('LRANGE', known.channel, 0, -1)) do
      local at = string.find(reply, '{', 1, true)  -- behind the signature, where there is one
      if at and string.sub(reply, at, at + #start - 1) == start then
        redis.call('LREM', known.channel, 1, reply)
        unread[#unread + 1] = {entry, string.sub(reply, at)}
      end
    end
  end
end
return unread
"""
)


def expect_reader(pipe: Pipeline, request: Request, answer: Answer, *, key_id: str | None, now_ms: int) -> None:
    """Add the command that has a grant looked after, where its claim waited."""
    if type(request) is not Claim or not claim_next.waited(request) or not answer.grants:
        return
    entry = {
        "channel": replies.reply_key(request.factory_id, request.instance),
        "request_id": request.request_id,
        "factory_id": request.factory_id,
        "incarnation": request.incarnation,
        "instance": request.instance,
        "key_id": key_id,
    }
    pipe.zadd(UNREAD, {json.dumps(entry): now_ms + READ_WITHIN_MS})


def take_back_unread(connection: Redis, entropy: Entropy, *, now_ms: int, door: Door = OPEN_DOOR) -> int:
    """Release the leases of grants that nobody has read in time. Returns how many there were.

    A client that was only slow repeats its request and is told `request_expired {lease_over}`.
    """
    unread = _TAKE_BACK.run(connection, [UNREAD], [now_ms, LOOK_MAX])
    grants = [(json.loads(entry), grant) for entry, reply in unread for grant in _grants(reply)]
    silent.stand_behind(connection, (grant["queue"] for _, grant in grants))
    releases = [(_release(sender, grant, entropy), door.forward(sender["key_id"])) for sender, grant in grants]
    with connection.pipeline(transaction=False) as pipe:
        for release, seal in releases:
            queues.enqueue(pipe, release, wire="intake", sign=seal.again)
        pipe.execute()
    return len(releases)


def _grants(reply: bytes) -> list[dict[str, Any]]:
    body: dict[str, Any] = pydantic_core.from_json(reply)["body"]
    return body.get("grants") or ([body] if "token" in body else [])


def _release(sender: dict[str, Any], grant: dict[str, Any], entropy: Entropy) -> Release:
    lease = {name: grant[name] for name in ("job_id", "epoch", "token")}
    return Release.model_validate(
        {
            **{name: sender[name] for name in ("factory_id", "incarnation", "instance")},
            "request_id": entropy.write_id(),
            "body": {**lease, "reason": "nobody read the grant", "unread": True},
        }
    )
