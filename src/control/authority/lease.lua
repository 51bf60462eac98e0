-- The authority as one step of Redis: who may spend how much, over all instances.
--
-- What it answers and what it keeps is what `shard::authority` does; docs/leases.md says why it is
-- safe, and a test drives both with the same histories. One call does many asks of one holder on
-- keys of one hash slot. It must never do an ask twice: the last answer to each holder is kept and
-- repeated.
--
-- KEYS[1]   what is known of this memory's past; KEYS[n + 1] the state of the n-th ask.
-- ARGV[1]   the holder; then for each ask its kind and its numbers, as `OF_KIND` reads them.
-- Answers   one array of integers for each ask.
--
-- Numbers are doubles: exact below 2^53, and nothing here goes beyond. Instants and spans are
-- microseconds, but for the spacing between two slots, which is nanoseconds. Levels count
-- micro-tokens, so that a token a second is one of them in a microsecond and accrual is exact.

local function now() local t = redis.call('TIME') return t[1] * 1000000 + t[2] end
-- A recall may get lost: one that cannot be sent fails no call.
local function publish(channel, text) redis.pcall('PUBLISH', channel, text) end
local function lineage() return redis.call('INFO', 'replication'):match('master_replid:(%x+)') end

local DONE, DENIED, ALL_ON_LEASE, REVOKED, STALE, NEED_SEED, FENCED = 0, 1, 2, 3, 4, 5, 6

local TOKEN = 1000000
local RATE_MAX = 1000000000
local DEMAND_MAX = 4194304
local TOKENS_MAX = 9007199254740991
local HOLDERS_MAX = 4096
local RTT_MAX_US = 500000
local QUARANTINE_US = 7000000
local LONG_LEASE_US = 5000000
local FAR_BELOW = 3
local HOLDER_MEMORY_US = 60000000
local ALL_ON_LEASE_DENY_US = 10000
local REVOKED_DENY_US = 1000000
local TTL_MIN_US = 100000

-- How long Redis keeps what nobody touches. Never shorter than what is remembered of it matters.
local MARKER_KEPT_MS = 30 * 86400000
local MARKER_AGE_MAX_US = 86400000000
local BUCKET_KEPT_MS = 65000
local REVOKED_KEPT_MS = 3600000
local MONTH_KEPT_MS = 3600000
local BALANCE_KEPT_MS = 40 * 86400000

local floor, ceil, min, max = math.floor, math.ceil, math.min, math.max
local time = now()
local holder_id = ARGV[1]

local at = 1
local function take()
  at = at + 1
  return ARGV[at]
end
local function take_number()
  return tonumber(take())
end
local function take_tokens()
  return min(take_number(), TOKENS_MAX)
end

local function read(key)
  local packed = redis.call('GET', key)
  return packed and cmsgpack.unpack(packed)
end
local function write(key, state, kept_ms)
  redis.call('SET', key, cmsgpack.pack(state), 'PX', string.format('%.0f', kept_ms))
end

-- The instant before which tokens may have been spent that this memory knows nothing of. Redis
-- has a new replication id after each restart and promotion: what it knew until then may be gone.
local function opened_at()
  local marker = read(KEYS[1])
  local line = lineage()
  if not marker or marker.lineage ~= line then
    marker = { lineage = line, open_at = time + QUARANTINE_US, written_at = time }
    write(KEYS[1], marker, MARKER_KEPT_MS)
  elseif time - marker.written_at > MARKER_AGE_MAX_US then
    marker.written_at = time
    write(KEYS[1], marker, MARKER_KEPT_MS)
  end
  return marker.open_at
end
local open_at = opened_at()

-- What is kept under the key, unless it is from before a loss of memory.
local function known(key)
  local state = read(key)
  if state and state.open_at == open_at then
    return state
  end
end

local function without(holders, is_gone)
  local kept = {}
  for _, holder in ipairs(holders) do
    if not is_gone(holder) then
      kept[#kept + 1] = holder
    end
  end
  return kept
end

-- Rate ------------------------------------------------------------------------------------------

local function rate_answer(status, deny_for)
  return {
    status = status, lease = 0, granted = 0, not_before = 0, spacing_ns = 0, ttl = 0,
    long = false, deny_for = deny_for, left = 0, holders = 0,
  }
end

local function rate_reply(answer)
  return {
    answer.status, answer.lease, answer.granted, answer.not_before, answer.spacing_ns, answer.ttl,
    answer.long and 1 or 0, answer.deny_for, answer.left, answer.holders,
  }
end

local function new_bucket(rate, burst)
  return {
    open_at = open_at, rate = rate, burst = burst, revoked = false,
    level = min(burst * TOKEN, rate * max(time - open_at, 0)),
    outstanding = 0, last = time, last_lease = 0, holders = {},
  }
end

local function write_bucket(key, bucket)
  local kept_ms = BUCKET_KEPT_MS + ceil((bucket.burst * TOKEN - bucket.level) / bucket.rate / 1000)
  write(key, bucket, bucket.revoked and max(kept_ms, REVOKED_KEPT_MS) or kept_ms)
end

-- Is the burst so small that each spent token is reported at once?
local function is_small(bucket)
  local burst = bucket.burst
  return burst < 8 or burst < 32 and burst < floor(bucket.rate / 40)
end

local function lease_span(bucket)
  return max(min(floor(bucket.burst * 250000 / bucket.rate), 250000), 50000)
end

local function accrue(bucket, until_at)
  local span = max(until_at - bucket.last, 0)
  local room = (bucket.burst - bucket.outstanding) * TOKEN - bucket.level
  bucket.level = bucket.level + min(bucket.rate * span, max(room, 0))
  bucket.last = max(bucket.last, until_at)
end

-- Accrues up to the present, stopping at each lease's end on the way.
local function advance(bucket)
  local present = max(time, bucket.last)
  while true do
    local first
    for _, holder in ipairs(bucket.holders) do
      if holder.outstanding > 0 and holder.expires_at <= present
        and (not first or holder.expires_at < first.expires_at) then
        first = holder
      end
    end
    if not first then
      break
    end
    accrue(bucket, first.expires_at)
    bucket.outstanding = bucket.outstanding - first.outstanding
    first.outstanding, first.lease = 0, 0
  end
  accrue(bucket, present)
end

local function repeated(holder, present)
  local answer, age = holder.answer, max(present - holder.answered_at, 0)
  return {
    status = answer.status, lease = answer.lease, granted = answer.granted,
    not_before = max(answer.not_before - age, 0), spacing_ns = answer.spacing_ns,
    ttl = max(answer.ttl - age, 0), long = answer.long, deny_for = max(answer.deny_for - age, 0),
    left = answer.left, holders = answer.holders,
  }
end

-- The caller among the bucket's holders, or the answer if the ask is not to be done.
local function rate_holder(bucket, ask)
  local present = bucket.last
  bucket.holders = without(bucket.holders, function(holder)
    return holder.ended and holder.outstanding == 0
  end)
  for _, holder in ipairs(bucket.holders) do
    if holder.id == holder_id and not holder.ended then
      if ask.seq == holder.seq then
        return nil, repeated(holder, present)
      elseif ask.seq < holder.seq then
        return nil, rate_answer(STALE, 0)
      end
      return holder
    end
  end
  bucket.holders = without(bucket.holders, function(holder)
    return holder.outstanding == 0 and present >= holder.called_at + HOLDER_MEMORY_US
  end)
  if #bucket.holders >= HOLDERS_MAX then
    return nil, rate_answer(DENIED, ALL_ON_LEASE_DENY_US)
  end
  local holder = {
    id = holder_id, ended = false, seq = 0, lease = 0, outstanding = 0, long = false,
    expires_at = 0, called_at = present, active_until = present, demand = 1, answer = rate_answer(DENIED, 0),
    answered_at = present,
  }
  bucket.holders[#bucket.holders + 1] = holder
  return holder
end

-- The caller's report, if it speaks of a lease that it has. What comes back of one from before a
-- decrease is burned: there may be no room for it.
local function settle(bucket, ask)
  local holder
  for _, one in ipairs(bucket.holders) do
    if one.id == holder_id and one.lease ~= 0 and one.lease == ask.lease then
      holder = one
      break
    end
  end
  if not holder then
    return
  end
  local used, returned = ask.used, ask.returned
  if holder.ended then
    used, returned = used + returned, 0
  end
  used = min(used, holder.outstanding)
  returned = min(returned, holder.outstanding - used)
  holder.outstanding = holder.outstanding - used - returned
  if used > 0 then
    holder.put_off_since = nil
  end
  bucket.outstanding = bucket.outstanding - used - returned
  bucket.level = bucket.level + returned * TOKEN
end

-- What is on lease may be spent until it lapses, and is not renewed.
local function end_leases(bucket)
  for place = 1, #bucket.holders do
    local holder = bucket.holders[place]
    if holder.outstanding > 0 and not holder.ended then
      local rest = {}
      for name, value in pairs(holder) do
        rest[name] = value
      end
      rest.ended, rest.active_until = true, 0
      holder.outstanding, holder.lease, holder.long = 0, 0, false
      bucket.holders[#bucket.holders + 1] = rest
    end
  end
end

-- Follows a changed plan. Is it a smaller one?
local function configure(bucket, ask)
  if bucket.rate == ask.rate and bucket.burst == ask.burst then
    return false
  end
  local is_cut = ask.rate < bucket.rate or ask.burst < bucket.burst
  if is_cut then
    end_leases(bucket)
  end
  bucket.rate, bucket.burst = ask.rate, ask.burst
  local room = max(ask.burst - bucket.outstanding, 0) * TOKEN
  local least = -ask.rate * lease_span(bucket)
  bucket.level = max(min(bucket.level, room), least)
  return is_cut
end

-- Holders that want tokens lately.
local function active(bucket)
  local count = 0
  for _, holder in ipairs(bucket.holders) do
    if holder.active_until > bucket.last then
      count = count + 1
    end
  end
  return max(count, 1)
end

-- Holders that have waited for longer than this one, want tokens and have none.
local function put_off_before(bucket, caller)
  local since, count = caller.put_off_since or bucket.last, 0
  for _, holder in ipairs(bucket.holders) do
    if holder.active_until > bucket.last and holder.outstanding == 0
      and holder.put_off_since and holder.put_off_since < since then
      count = count + 1
    end
  end
  return count
end

-- What all that want tokens lately want, each at least one.
local function demand_of_all(bucket)
  local demand = 0
  for _, holder in ipairs(bucket.holders) do
    if holder.active_until > bucket.last then
      demand = demand + holder.demand
    end
  end
  return demand
end

-- The caller's part of the whole tokens that are left.
local function share(bucket, caller, whole, count)
  if count == 1 then
    return whole
  end
  local by_demand = floor(whole * caller.demand / max(demand_of_all(bucket), 1))
  return max(by_demand, floor(whole / (2 * count)), 1)
end

local function grant(bucket, caller, ask, span)
  local room = max(bucket.burst - bucket.outstanding, 0)
  if room == 0 then
    local deny_for = min(max(floor(TOKEN / bucket.rate), ALL_ON_LEASE_DENY_US), span)
    return rate_answer(ALL_ON_LEASE, deny_for)
  end
  local before_it = put_off_before(bucket, caller)
  if before_it >= room then
    return rate_answer(DENIED, ALL_ON_LEASE_DENY_US)
  end
  room = room - before_it
  local count = active(bucket)
  local whole = max(max(floor(bucket.level / TOKEN), 0) - before_it, 0)
  local debt_max = bucket.rate * span
  local ahead = max(floor(floor(debt_max / TOKEN) / count), 1)
  local answer = rate_answer(DONE, 0)
  if whole >= (count == 1 and 1 or ahead) then
    answer.granted = min(ask.want, share(bucket, caller, whole, count), room)
    return answer
  end
  local debt = -bucket.level
  if debt > debt_max then
    return rate_answer(DENIED, ceil((debt - debt_max) / bucket.rate))
  end
  if before_it > floor((debt_max - debt) / TOKEN) then
    return rate_answer(DENIED, ALL_ON_LEASE_DENY_US)
  end
  answer.granted = min(ask.want, ahead, room)
  answer.not_before = ceil(max(TOKEN - bucket.level, 0) / bucket.rate)
  answer.spacing_ns = ceil(count * 1000000000 / bucket.rate)
  return answer
end

-- Did the caller get all that it wants, to be spent at once?
local function is_met(bucket, ask, answer)
  return answer.granted >= min(ask.want, bucket.burst) and answer.spacing_ns == 0
end

-- Calls long leases back, but the caller's, which hears of it by its answer.
local function recall(bucket, bucket_id, caller_id)
  for _, holder in ipairs(bucket.holders) do
    if holder.id ~= caller_id and holder.long and holder.outstanding > 0 then
      publish('tollgate:recall:' .. holder.id, bucket_id)
    end
  end
end

-- Makes the caller's lease a long one, and grants what it will need meanwhile, where that is
-- nobody's loss: all together want far less than accrues, and half of the burst stays here for
-- whoever else comes.
local function lengthen(bucket, holder, ask, answer)
  if ask.want == 0 then
    answer.long = holder.long and holder.outstanding > 0 and not bucket.revoked
  elseif ask.long_want > 0 and not is_small(bucket) then
    local is_calm = demand_of_all(bucket) * FAR_BELOW <= bucket.rate
      and put_off_before(bucket, holder) == 0
    answer.long = is_calm and answer.granted > 0 and is_met(bucket, ask, answer)
  end
  holder.long = answer.long
  if answer.long and ask.want > 0 then
    local whole = max(floor(bucket.level / TOKEN), 0)
    local spare = floor(bucket.burst / 2) - bucket.outstanding - answer.granted
    spare = min(max(spare, 0), whole - answer.granted)
    answer.granted = answer.granted + min(max(ask.long_want - answer.granted, 0), spare)
  end
end

-- Books the answer's tokens on the caller's lease and keeps the answer.
local function lease_out(bucket, holder, answer, ttl)
  local present = bucket.last
  if answer.long and answer.granted > 0 then
    ttl = max(ttl, LONG_LEASE_US)
  end
  if holder.outstanding == 0 then
    -- One that holds nothing ends here, and not when it would have lapsed.
    holder.lease = 0
  end
  bucket.level = bucket.level - answer.granted * TOKEN
  bucket.outstanding = bucket.outstanding + answer.granted
  holder.outstanding = holder.outstanding + answer.granted
  if holder.outstanding > 0 then
    if holder.lease == 0 then
      bucket.last_lease = max(present, bucket.last_lease + 1)
      holder.lease = bucket.last_lease
      holder.expires_at = 0
    end
    local slots_ns = answer.spacing_ns * max(answer.granted - 1, 0)
    local last_slot = ceil((answer.not_before * 1000 + slots_ns) / 1000)
    holder.expires_at =
      max(holder.expires_at, present + ttl + last_slot + floor(last_slot / 32))
    answer.lease = holder.lease
    answer.ttl = holder.expires_at - present
  end
  answer.left = floor(bucket.level / TOKEN)
  answer.holders = active(bucket)
  holder.answer = answer
  holder.answered_at = present
end

local function rate(key)
  local ask = {
    seq = take_number(),
    rate = max(min(take_number(), RATE_MAX), 1),
    burst = max(min(take_number(), RATE_MAX), 1),
    lease = take_number(), want = take_tokens(), long_want = take_tokens(),
    demand = max(min(take_number(), DEMAND_MAX), 1),
    used = take_tokens(), returned = take_tokens(),
    rtt = min(take_number(), RTT_MAX_US),
    bucket_id = take(),
  }
  if time < open_at then
    return rate_reply(rate_answer(FENCED, open_at - time))
  end
  local bucket = known(key) or new_bucket(ask.rate, ask.burst)
  advance(bucket)
  local present = bucket.last
  local holder, answer = rate_holder(bucket, ask)
  if not holder then
    write_bucket(key, bucket)
    return rate_reply(answer)
  end
  settle(bucket, ask)
  local is_cut = configure(bucket, ask)
  local span = lease_span(bucket)
  local ttl = max(2 * span + 2 * ask.rtt, TTL_MIN_US)
  holder.seq, holder.called_at, holder.demand = ask.seq, present, ask.demand
  if ask.want > 0 or holder.outstanding > 0 then
    holder.active_until = present + ttl
  elseif not holder.put_off_since then
    holder.active_until = present
  end
  if bucket.revoked then
    answer = rate_answer(REVOKED, REVOKED_DENY_US)
  elseif ask.want == 0 then
    answer = rate_answer(DONE, 0)
  else
    answer = grant(bucket, holder, ask, span)
  end
  if ask.want > 0 and answer.granted == 0 then
    holder.put_off_since = holder.put_off_since or present
    holder.active_until = present + answer.deny_for + ttl
  end
  if is_cut or not is_met(bucket, ask, answer) then
    recall(bucket, ask.bucket_id, holder_id)
  end
  lengthen(bucket, holder, ask, answer)
  lease_out(bucket, holder, answer, ttl)
  write_bucket(key, bucket)
  return rate_reply(answer)
end

local function revoke(key)
  local bucket = known(key) or new_bucket(1, 1)
  bucket.revoked = true
  recall(bucket, take(), nil)
  write_bucket(key, bucket)
  return {}
end

-- Quota -----------------------------------------------------------------------------------------

-- Has the other holders give back what they have free.
local function recall_month(month, name)
  for _, holder in ipairs(month.holders) do
    if holder.id ~= holder_id and holder.balance > 0 then
      publish('tollgate:recall:' .. holder.id, name)
    end
  end
end

local function month_reply(status, granted, left)
  return { status, granted, left }
end

local function month_left(month)
  local on_lease = 0
  for _, holder in ipairs(month.holders) do
    on_lease = min(on_lease + holder.balance, TOKENS_MAX)
  end
  return max(max(month.limit - month.consumed, 0) - on_lease, 0)
end

-- A balance never lapses: who holds it may be at a long call.
local function write_month(key, month)
  local kept_ms = MONTH_KEPT_MS
  for _, holder in ipairs(month.holders) do
    if holder.balance > 0 then
      kept_ms = BALANCE_KEPT_MS
    end
  end
  write(key, month, kept_ms)
end

local function month_holder(month, seq)
  local present = month.called_at
  for _, holder in ipairs(month.holders) do
    if holder.id == holder_id then
      if seq == holder.seq then
        return nil, holder.reply
      elseif seq < holder.seq then
        return nil, month_reply(STALE, 0, 0)
      end
      return holder
    end
  end
  month.holders = without(month.holders, function(holder)
    return holder.balance == 0 and present >= holder.called_at + HOLDER_MEMORY_US
  end)
  if #month.holders >= HOLDERS_MAX then
    return nil, month_reply(DENIED, 0, 0)
  end
  local holder = {
    id = holder_id, seq = 0, balance = 0, called_at = present, reply = month_reply(DONE, 0, 0),
  }
  month.holders[#month.holders + 1] = holder
  return holder
end

local function quota(key)
  local seq, limit = take_number(), take_tokens()
  local want, need, least = take_tokens(), take_tokens(), take_tokens()
  local consumed, held, name = take_tokens(), take_tokens(), take()
  if time < open_at then
    return month_reply(FENCED, 0, 0)
  end
  local month = known(key)
    or { open_at = open_at, seeded = false, limit = 0, consumed = 0, called_at = 0, holders = {} }
  month.called_at = max(month.called_at, time)
  if not month.seeded then
    write_month(key, month)
    return month_reply(NEED_SEED, 0, 0)
  end
  local holder, reply = month_holder(month, seq)
  if holder then
    if limit >= 0 then
      month.limit = limit
    end
    holder.seq, holder.called_at, holder.balance = seq, month.called_at, held
    month.consumed = min(month.consumed + consumed, TOKENS_MAX)
    local left, plenty = month_left(month), 0
    if left > floor(month.limit / 50) then
      plenty = floor(left / (2 * #month.holders))
    end
    local granted = min(max(min(want, plenty), need), left)
    if granted < least then
      granted = 0
    end
    if granted < need then
      recall_month(month, name)
    end
    holder.balance = min(holder.balance + granted, TOKENS_MAX)
    reply = month_reply(DONE, granted, month_left(month))
    holder.reply = reply
  end
  write_month(key, month)
  return reply
end

local function seed(key)
  local consumed = take_tokens()
  local month = known(key)
  if month and not month.seeded then
    month.seeded, month.consumed = true, consumed
    write_month(key, month)
  end
  return {}
end

local OF_KIND = { rate = rate, revoke = revoke, quota = quota, seed = seed }

local answers = {}
for place = 2, #KEYS do
  answers[place - 1] = OF_KIND[take()](KEYS[place])
end
return answers
