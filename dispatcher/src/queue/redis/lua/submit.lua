#!lua
-- Keeps new tasks, or recognises the ones that are there. Refused by a server whose memory is full: this is the only script
-- that may fill it.
--
-- KEYS[1]     meta of the shard
-- KEYS[i+1]   record of item i; at most 250, no task twice
-- ARGV[1]     time in ms in tests, 0 for the server's
-- ARGV[2]     most unfinished tasks of the shard
-- ARGV[3]     most unfinished and dead tasks of a tenant
-- ARGV[4]     how long an exact version that succeeded is recognised (ms)
-- ARGV[2*i+3] item i: its flags and, in six bytes, its processing time (0 for now)
-- ARGV[2*i+4] item i: its record from the processing timeout on
--
-- Returns pending tasks by band, then three integers for each item: what came of it, the state of the task, its run. What came of
-- it: 1 created, 2 duplicate, 3 coalesced, 4 runs again, -1 shard full, -2 tenant full, -3 its record is damaged.
--
-- Keeps: a task is in one place; a repeat changes nothing; an accepted "latest" is served by a lease that begins after it.
local shard_cap, tenant_cap, window = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
-- Where an item's record, as far as it is given, says band, tenant and location.
local BODY_LINE_AT = 17
local answers, said, created, groups, fronts = {}, 0, 0, {}, {}

local function answer(code, state, run)
  answers[said + 1], answers[said + 2], answers[said + 3] = code, state, run
  said = said + 3
end

-- What a task that is there makes of a request for `at`; nil when there has to be a new run.
local function recognise(key, id, r, at)
  local latest, changed = is_set(r[FLAGS], LATEST), false
  if r[STATE] == WORKING then
    if not latest and not is_set(r[FLAGS], CANCEL) then return 2 end
    r[FLAGS] = with(r[FLAGS], DIRTY)
    put(key, r)
    return 4
  end
  if r[STATE] == DONE and not latest and r[AT] + window > now then return 2 end
  if r[STATE] >= DONE then return nil end
  if r[STATE] == SCHEDULED and at < r[AT] then
    take_out(r, id)
    if at <= now then
      wait(r, id, true)
      count('pulled', 1)
    else
      settle_in(r, id, SCHEDULED, at)
    end
    changed = true
  end
  -- A copy that began before this request, and may yet be reported, must not count for it.
  if latest and r[LAST] == RAN_OUT and not is_set(r[FLAGS], DIRTY) then
    r[FLAGS] = with(r[FLAGS], DIRTY)
    changed = true
  end
  if changed then put(key, r) end
  return latest and 3 or 2
end

-- Tenant, line and queue of a body; most items of a call share a few.
local function group_of(body)
  local band, tenant_bytes, location_bytes = byte(body, BODY_LINE_AT, BODY_LINE_AT + 2)
  local names = sub(body, BODY_LINE_AT, BODY_LINE_AT + 2 + tenant_bytes + location_bytes)
  local g = groups[names]
  if not g then
    local t = tenant(sub(names, 4, 3 + tenant_bytes))
    local l = line(t, band)
    g = {tenant = t, line = l, queue = queue(l, sub(names, 4 + tenant_bytes))}
    groups[names] = g
  end
  return g
end

-- A record up to its place in line, of the first run of a task that waits: but for the flags the same for all of a call.
local function front_of(flags)
  local front = fronts[flags]
  if not front then
    front = VERSION .. struct.pack(FRONT, PENDING, 0, flags, OPEN, 0, NO_TOKEN, 0, 0, 0, 0, 0, 0, 0, 0, 0)
      .. struct.pack('>I4I2I2I6', 1, 0, 0, now)
    fronts[flags] = front
  end
  return front
end

local function create(key, id, flags, at, body, old)
  local g = group_of(body)
  local t = g.tenant
  local more = old and old[STATE] == DEAD and 0 or 1
  if unfinished >= shard_cap then return answer(-1, 0, 0) end
  if t.kept + more > tenant_cap then return answer(-2, 0, 0) end
  seq = seq + 1
  if not old and at <= now then
    join_queue(g.line, g.queue, seq, id)
    unfinished, t.kept, created = unfinished + 1, t.kept + 1, created + 1
    put_raw(key, front_of(flags) .. struct.pack('>I6', seq) .. body)
    return answer(1, PENDING, 1)
  end
  local run, upload, state = 1, '', PENDING
  if old then
    take_out(old, id)
    weigh(old.was, -old.bytes)
    run, upload = old[RUN] + 1, old[UPLOAD]
    count_move('replaced', old.was)
  end
  if at > now then
    state = SCHEDULED
    add(INDEX[SCHEDULED], at, id)
  else
    at = 0
    join_queue(g.line, g.queue, seq, id)
  end
  count_state(t, state, 1)
  local front = struct.pack(FRONT, state, 0, flags, OPEN, at, NO_TOKEN, 0, 0, 0, 0, 0, #upload, 0, 0, 0)
  put_raw(key, VERSION .. front .. struct.pack('>I4I2I2I6I6', run, 0, 0, now, seq) .. body .. upload)
  count_move('created', state)
  answer(1, state, run)
end

local raws, start, flags, at = records(), '', 0, 0
for i = 1, #KEYS - 1 do
  local key, raw = KEYS[i + 1], raws[i]
  local id = id_of(key)
  -- Most begin alike.
  if ARGV[2 * i + 3] ~= start then
    start = ARGV[2 * i + 3]
    flags, at = struct.unpack('>BI6', start)
  end
  if not raw then
    create(key, id, flags, at, ARGV[2 * i + 4])
  else
    local old = decode(raw)
    local code = not old and -3 or recognise(key, id, old, at)
    if code then
      answer(code, old and old[STATE] or 0, old and old[RUN] or 0)
    else
      create(key, id, flags, at, ARGV[2 * i + 4], old)
    end
  end
end
if created > 0 then count('created', created) end
return commit(answers)
