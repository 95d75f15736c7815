"""Takes the best member out of several sets of the index, in Lua: who stands in lanes, and whose turn it is."""

from broker.clock import SET_BACK_MS
from broker.index import LANE

RIGHTED_MAX = 2_000
"""12 to 33 ms of Redis's time, measured on a busy machine. A lane keeps its place when its first job is cancelled,
and anybody may name new ones."""
SETS_MAX = 50
"""Up to so many that fit an entry counts as one. All are looked at for each, so that with more of them it counts for
more: in 5,000, 2,000 entries took 4 s."""
SERVED_TTL_MS = 86_400_000
"""Of a queue that serves no lane for so long it is forgotten whose turn was last: then the oldest job has it."""
POP_BEST = (
    f"local LANE, SERVED_MAX, SET_BACK, RIGHTED_MAX = '{LANE}', 10000, {SET_BACK_MS}, {RIGHTED_MAX}\n"
    f"local SERVED_TTL, SETS_MAX = {SERVED_TTL_MS}, {SETS_MAX}"
    + """
-- Entries put right by this call, in many sets each for several. Each costs everybody's time; who needs one more than
-- so many is to ask again.
local righted = 0

-- What stands first in each set, looked at once until the set is changed here.
local heads = {}
local function head_of(key)
  local head = heads[key]
  if not head then
    head = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    heads[key] = head
  end
  return head[1], tonumber(head[2])
end

local function change(command, key, ...)
  if redis.call(command, key, ...) > 0 then heads[key] = nil end
end

-- The entry with the lowest score, less its set's bonus, over the sets `before .. key .. after`, and that set.
local function best_of(keys, bonuses, before, after)
  local best, its_key, its_score, least
  for i = 1, #keys do
    local entry, score = head_of(before .. keys[i] .. after)
    if entry then
      local value = score - bonuses[i]
      if not least or value < least then best, its_key, its_score, least = entry, keys[i], score, value end
    end
  end
  return best, its_key, its_score
end

-- The entry with the lowest score, less its set's bonus, taken out. A lane gives its first job, and then stands behind
-- all that have waited longer than since now. Nil where there is none, and true where that is not known yet.
local function pop_best(keys, bonuses, served, now, step)
  while true do  -- each round ends it, or puts one entry right
    local best, key, score = best_of(keys, bonuses, '', '')
    if not best then return nil, false end
    if string.sub(best, 1, 1) ~= '~' then
      change('ZREM', key, best)
      return best
    end
    -- From before time was set back, or nobody of ours wrote it: nobody may wait for its turn until then.
    redis.call('ZREMRANGEBYSCORE', served, now + SET_BACK, '+inf')
    local priority = string.match(best, '^~(%-?%d+)~')
    local worth = (priority or 0) * step
    local _, head = head_of(LANE .. key .. best)
    local turn = (redis.call('ZSCORE', served, best) or 0) - worth
    local since = head and priority and math.max(head, turn)
    if not since or since > score then
      if righted >= RIGHTED_MAX then return nil, true end
      righted = righted + math.max(1, #keys / SETS_MAX)
      if since then change('ZADD', key, 'CH', since, best) else change('ZREM', key, best) end
    else
      local first, its_key = best_of(keys, bonuses, LANE, best)
      change('ZREM', LANE .. its_key .. best, first)
      local last = redis.call('ZREVRANGE', served, 0, 0, 'WITHSCORES')[2] or 0
      local stamp = math.max(now, last) + 0.001
      redis.call('ZADD', served, stamp, best)
      redis.call('ZREMRANGEBYRANK', served, 0, -SERVED_MAX - 1)
      redis.call('PEXPIRE', served, SERVED_TTL)
      for i = 1, #keys do change('ZADD', keys[i], 'XX', 'GT', 'CH', stamp - worth, best) end
      local _, next_one = head_of(LANE .. its_key .. best)
      if next_one then
        change('ZADD', its_key, 'CH', math.max(next_one, stamp - worth), best)
      else
        change('ZREM', its_key, best)
      end
      return first
    end
  end
end
"""
)
