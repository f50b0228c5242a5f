#!lua
-- Keeps new tasks, or recognises the ones that are there. Refused by a server whose memory is full: this is the only script
-- that may fill it.
--
-- KEYS[1]   meta of the shard
-- KEYS[i+1] record of item i; at most 100, no task twice
-- ARGV[1]   time in ms in tests, 0 for the server's
-- ARGV[2]   most unfinished tasks of the shard
-- ARGV[3]   most unfinished and dead tasks of a tenant
-- ARGV[4]   how long an exact version that succeeded is recognised (ms)
-- ARGV[i+4] item i: the record as codec.rs makes it for a new task
--
-- Returns pending tasks by band, then three integers for each item: what came of it, the state of the task, its run. What came of
-- it: 1 created, 2 duplicate, 3 coalesced, 4 runs again, -1 shard full, -2 tenant full, -3 its record is damaged.
--
-- Keeps: a task is in one place; a repeat changes nothing; an accepted "latest" is served by a lease that begins after it.
local shard_cap, tenant_cap, window = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local unfinished = pending[0] + pending[1] + pending[2]
for _, state in ipairs({SCHEDULED, WORKING, DELAYED}) do
  unfinished = unfinished + redis.call('ZCARD', PREFIX .. INDEX[state])
end
local held, answers = {}, {}

local function answer(code, r)
  answers[#answers + 1] = {code, r and r[STATE] or 0, r and r[RUN] or 0}
end

-- What a task that is there makes of the request; nil when there has to be a new run.
local function recognise(key, id, r, new)
  local latest, changed = has(r, LATEST), false
  if r[STATE] == WORKING then
    if not latest and not has(r, CANCEL) then return 2 end
    set(r, DIRTY)
    put(key, r)
    return 4
  end
  if r[STATE] == DONE and not latest and r[AT] + window > now then return 2 end
  if r[STATE] >= DONE then return nil end
  if r[STATE] == SCHEDULED and new[AT] < r[AT] then
    take_out(r, id)
    if new[AT] <= now then wait(r, id, true) else settle_in(r, id, SCHEDULED, new[AT]) end
    changed = true
  end
  -- A copy that began before this request, and may yet be reported, must not count for it.
  if latest and r[LAST] == RAN_OUT and not has(r, DIRTY) then
    set(r, DIRTY)
    changed = true
  end
  if changed then put(key, r) end
  return latest and 3 or 2
end

local function create(key, id, new, old)
  local name = new[TENANT]
  held[name] = held[name] or tonumber(redis.call('HGET', PREFIX .. 'tenants', 'u:' .. name)) or 0
  local more = old and old[STATE] == DEAD and 0 or 1
  if unfinished >= shard_cap then return answer(-1) end
  if held[name] + more > tenant_cap then return answer(-2) end
  unfinished = unfinished + 1
  held[name] = held[name] + more
  new[CREATED], new[RUN] = now, 1
  if old then
    take_out(old, id)
    new[RUN], new[UPLOAD] = old[RUN] + 1, old[UPLOAD]
    count('replaced', 1)
  end
  if new[AT] > now then settle_in(new, id, SCHEDULED, new[AT]) else wait(new, id, true) end
  put(key, new)
  count('created', 1)
  answer(1, new)
end

local raws = records()
for i = 1, #KEYS - 1 do
  local key, new = KEYS[i + 1], decode(ARGV[i + 4])
  local id = id_of(key)
  local old = raws[i] and decode(raws[i])
  if not new or (raws[i] and not old) then
    answer(-3)
  else
    local code = old and recognise(key, id, old, new)
    if code then answer(code, old) else create(key, id, new, old) end
  end
end
local out = commit()
for _, a in ipairs(answers) do
  for _, n in ipairs(a) do out[#out + 1] = n end
end
return out
