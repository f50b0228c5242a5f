-- What every script does to its shard: read first (clock, records, tenants), plan the changes, write them all in commit(), last.
-- Redis does not undo a script that fails half-way, so nothing may fail between the first write and the end.
--
-- Numbers go to redis.call as numbers, which Redis formats with 17 digits; Lua's own concatenation keeps 14 and is used for
-- nothing above a band. Texts are never compared with <, which follows the server's locale.
--
-- KEYS[1]  meta of the shard, for every script
-- ARGV[1]  time in ms in tests, 0 for the server's, for every script
local PREFIX = sub(KEYS[1], 1, -5)
-- While a cluster moves this slot to another node, key by key, a script here may fail at any key that is not here (any more, or at
-- all), half-way. Asking for a key that never exists finds out before anything is written.
local whole = redis.pcall('EXISTS', PREFIX .. 'none')
if type(whole) == 'table' then return redis.error_reply('TRYAGAIN the shard is being moved to another node') end
-- What a shard knows about itself, in one value, because every call reads and writes it: clock (ms), what is added to the
-- server's, until when changes are logged (ms), newest place in line, unfinished tasks, pending tasks of each band, virtual time of
-- each band (where the tenant that was served last began), bytes of the records of done and cancelled tasks.
local META = '>I6I6I6I7I7I7I7I7I7I7I7I7'
local meta = redis.call('GET', KEYS[1])
local clk, off, logged, seq, unfinished, finished = 0, 0, 0, 0, 0, 0
local pending, band_time = {[0] = 0, 0, 0}, {[0] = 0, 0, 0}
if meta then
  clk, off, logged, seq, unfinished, pending[0], pending[1], pending[2], band_time[0], band_time[1], band_time[2], finished =
    struct.unpack(META, meta)
end

-- Time of the shard in ms: the server's, or the caller's in tests; never earlier than it was, whichever server answers.
--
-- `off` makes up for a server's clock that is behind. A gap in time while there is one is most often that clock being put right, so the
-- gap is taken out of it first: time must not jump ahead by what it was behind.
local GAP_MS = 10000
local now, behind, server = tonumber(ARGV[1]), 0, 0
if now == 0 then
  local time = redis.call('TIME')
  server = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local gap = server + off - clk
  if off > 0 and gap > GAP_MS then off = max(off - gap, 0) end
  now = server + off
  behind = max(clk - now, 0)
end
now = max(now, clk)

local sets, dels, adds, removals, stats, touched = {}, {}, {}, {}, {}, {}
local written = 0
local tenants, lines, formatted, announce = {}, {}, {}, false

local function id_of(key)
  return sub(key, -32)
end

-- All records of the call, in order; false where there is none.
local function records()
  return #KEYS > 1 and redis.call('MGET', unpack(KEYS, 2)) or {}
end

local function put_raw(key, raw)
  sets[written + 1], sets[written + 2] = key, raw
  written = written + 2
end

-- Counts the record of a done or cancelled task, or counts it out.
local function weigh(state, bytes)
  if state == DONE or state == CANCELLED then finished = max(finished + bytes, 0) end
end

local function put(key, r)
  local raw = encode(r)
  weigh(r.was, -r.bytes)
  weigh(r[STATE], #raw)
  put_raw(key, raw)
end

-- Puts an entry into an index, or moves it there. Most entries of a call share a few times: each is formatted once.
local function add(index, score, id)
  local list, text = adds[index], formatted[score]
  if not list then list = {n = 0} adds[index] = list end
  if not text then text = string.format('%.0f', score) formatted[score] = text end
  local n = list.n
  list[n + 1], list[n + 2], list.n = text, id, n + 2
end

local function remove(index, id)
  local list = removals[index]
  if not list then list = {n = 0} removals[index] = list end
  local n = list.n + 1
  list[n], list.n = id, n
end

local function count(field, by)
  stats[field] = (stats[field] or 0) + by
end

-- Counts one move, and by itself where it goes from or to another state than pending: so that the moves of a state add up to its tasks
-- (fsck/flows.rs), and the most frequent ones cost one counter.
local function count_move(field, state)
  count(field, 1)
  if INDEX[state] then count(field .. ':' .. INDEX[state], 1) end
end

-- What is counted for a tenant: kept (unfinished and dead) tasks, leases, pending tasks by band, whether it has left rings,
-- scheduled, delayed and dead tasks.
local COUNTS, COUNTS_BYTES = '>I5I5I5I5I5BI5I5I5', 41

local function tenant(name)
  local t = tenants[name]
  if not t then
    t = {name = name, raw = redis.call('HGET', PREFIX .. 'tenants', name), kept = 0, leases = 0, parked = 0, scheduled = 0,
      delayed = 0, dead = 0, lines = {}, [0] = 0, 0, 0}
    if t.raw and #t.raw == COUNTS_BYTES then
      t.kept, t.leases, t[0], t[1], t[2], t.parked, t.scheduled, t.delayed, t.dead = struct.unpack(COUNTS, t.raw)
    end
    tenants[name] = t
  end
  return t
end

-- The line of a tenant in one band: its waiting tasks at all locations, which share one turn.
local function line(t, band)
  local l = t.lines[band]
  if not l then
    l = {tenant = t, band = band, was = t[band], queues = {}}
    t.lines[band] = l
    lines[#lines + 1] = l
  end
  return l
end

local function turn_of(l)
  if not l.turn then
    local set = l.was > 0 and 'pending:turns:' or 'pending:rested:'
    l.turn = tonumber(redis.call('ZSCORE', PREFIX .. set .. l.band, l.tenant.name) or nil) or 0
  end
  return l.turn
end

-- The queue of a line at one location.
local function queue(l, location)
  local q = l.queues[location]
  if not q then
    q = {name = 'pending:' .. l.band .. ':' .. location .. ':' .. l.tenant.name, joined = {n = 0}, left = {n = 0}}
    l.queues[location] = q
  end
  return q
end

local function join_queue(l, q, place, id)
  local t, band = l.tenant, l.band
  if t[band] == 0 then
    l.turn = max(turn_of(l), band_time[band])
    l.begins = true
  end
  t[band] = t[band] + 1
  pending[band] = pending[band] + 1
  local joined = q.joined
  local n = joined.n
  joined[n + 1], joined[n + 2], joined.n = place, id, n + 2
end

local function leave_queue(l, q, id)
  local t, band, left = l.tenant, l.band, q.left
  if not l.turn then turn_of(l) end
  t[band] = max(t[band] - 1, 0)
  pending[band] = max(pending[band] - 1, 0)
  local n = left.n + 1
  left[n], left.n = id, n
end

-- Counts a task of a tenant out of a state, or into one.
local function count_state(t, state, by)
  if state <= DELAYED then unfinished = max(unfinished + by, 0) end
  if state <= DELAYED or state == DEAD then t.kept = max(t.kept + by, 0) end
  if state == WORKING then
    t.leases = max(t.leases + by, 0)
    t.freed = t.freed or by < 0
  elseif state == SCHEDULED then
    t.scheduled = max(t.scheduled + by, 0)
  elseif state == DELAYED then
    t.delayed = max(t.delayed + by, 0)
  elseif state == DEAD then
    t.dead = max(t.dead + by, 0)
  end
end

-- Takes a task out of where its state says it is.
local function take_out(r, id)
  local t, state = tenant(r[TENANT]), r[STATE]
  if state == PENDING then
    local l = line(t, r[BAND])
    leave_queue(l, queue(l, r[LOCATION]), id)
  else
    remove(INDEX[state], id)
  end
  count_state(t, state, -1)
end

-- Puts a task into any other place than pending; `at` is its time there.
local function settle_in(r, id, state, at)
  r[STATE], r[AT] = state, at
  add(INDEX[state], at, id)
  count_state(tenant(r[TENANT]), state, 1)
end

-- Puts a task into pending, at the end of its tenant's line or at its old place.
local function wait(r, id, at_end)
  local t = tenant(r[TENANT])
  r[STATE], r[AT] = PENDING, 0
  if at_end then
    seq = seq + 1
    r[SEQ] = seq
  end
  local l = line(t, r[BAND])
  join_queue(l, queue(l, r[LOCATION]), r[SEQ], id)
  count_state(t, PENDING, 1)
end

-- A new run of the same spec, at once, of a task that has been taken out. Of the old run only the upload is kept, and `parent`:
-- whose report started the new one.
local function run_again(r, id, parent)
  r[REASON], r[LAST], r[PARENT] = 0, OPEN, parent
  r[FLAGS] = is_set(r[FLAGS], LATEST) and LATEST or 0
  r[RUN], r[ATTEMPTS], r[CRASHES], r[RETURNS] = r[RUN] + 1, 0, 0, 0
  r[CREATED], r[TOKEN], r[DEADLINE] = now, NO_TOKEN, 0
  r[BYTES_DONE], r[BYTES_TOTAL], r[STEPS] = 0, 0, 0
  r[WORKER], r[SESSION], r[FAILURE], r[RECEIPT] = '', '', '', ''
  wait(r, id, true)
  count('run_again', 1)
end

-- An index entry that disagrees with its record, or has none: the record is right.
local function fix(index, id, damaged)
  remove(index, id)
  if damaged then add('damaged', now, id) end
  count('fixed', 1)
end

-- Calls a command with a list of arguments, which may be pairs, at most 500 at a time. A list knows how long it is, because Lua has to
-- search for that.
local function call_with(command, key, list)
  for i = 1, list.n, 500 do redis.call(command, key, unpack(list, i, math.min(i + 499, list.n))) end
end

local function commit_line(l)
  local t, band = l.tenant, l.band
  local turns, rested = PREFIX .. 'pending:turns:' .. band, PREFIX .. 'pending:rested:' .. band
  if t[band] == 0 then
    redis.call('ZREM', turns, t.name)
    -- A turn ahead of the band's time is remembered, or a tenant would win by coming back often.
    if turn_of(l) > band_time[band] then redis.call('ZADD', rested, l.turn, t.name) end
  elseif l.begins or l.served then
    redis.call('ZADD', turns, l.turn, t.name)
    if l.was == 0 then redis.call('ZREM', rested, t.name) end
  end
  for location, q in pairs(l.queues) do
    local key, ring = PREFIX .. q.name, PREFIX .. 'pending:ring:' .. band .. ':' .. location
    call_with('ZREM', key, q.left)
    call_with('ZADD', key, q.joined)
    local length = redis.call('ZCARD', key)
    if length == 0 then
      redis.call('ZREM', ring, t.name)
    elseif l.begins or l.served or length == q.joined.n / 2 then
      local is_new = redis.call('ZADD', ring, turn_of(l), t.name)
      if is_new == 1 then
        redis.call('SADD', PREFIX .. 'locations', location)
        announce = true
      end
    end
  end
end

-- A tenant that holds fewer leases again returns to the rings that it had left.
local function unpark(name)
  for _, ring in ipairs(redis.call('SPOP', PREFIX .. 'pending:parked:' .. name, 1000)) do
    local band = string.sub(ring, 1, 1)
    if redis.call('EXISTS', PREFIX .. 'pending:' .. ring .. ':' .. name) == 1 then
      local turn = redis.call('ZSCORE', PREFIX .. 'pending:turns:' .. band, name)
      redis.call('ZADD', PREFIX .. 'pending:ring:' .. ring, turn or 0, name)
      announce = true
    end
  end
end

local function commit_tenant(t)
  if t.freed and t.parked == 1 then
    unpark(t.name)
    t.parked = 0
  end
  local raw = struct.pack(COUNTS, t.kept, t.leases, t[0], t[1], t[2], t.parked, t.scheduled, t.delayed, t.dead)
  if t.kept + t.leases + t[0] + t[1] + t[2] == 0 then
    redis.call('HDEL', PREFIX .. 'tenants', t.name)
  elseif raw ~= t.raw then
    redis.call('HSET', PREFIX .. 'tenants', t.name, raw)
  end
end

local function commit_meta()
  local changed = struct.pack(META, now, off, logged, seq, unfinished, pending[0], pending[1], pending[2], band_time[0],
    band_time[1], band_time[2], finished)
  if changed ~= meta then redis.call('SET', KEYS[1], changed) end
end

-- Notes which tasks have changed, by tenant, for whoever watches: one bounded append for the whole call, and only while somebody
-- does. What is in `touched` changes without being put.
local LOG_ENTRIES = 4096

local function log_changes()
  if logged <= now or written + #touched == 0 then return end
  local groups, entry = {}, {}
  for _, list in ipairs({sets, touched}) do
    for i = 1, #list, 2 do
      local raw = list[i + 1]
      local name = string.sub(raw, HEAD_BYTES + 1, HEAD_BYTES + string.byte(raw, LINE_AT + 1))
      local group = groups[name]
      if not group then group = {} groups[name] = group end
      group[#group + 1] = id_of(list[i])
    end
  end
  for name, group in pairs(groups) do
    entry[#entry + 1] = name
    entry[#entry + 1] = table.concat(group)
  end
  redis.call('XADD', PREFIX .. 'events', 'MAXLEN', '~', LOG_ENTRIES, '*', unpack(entry))
end

-- Writes everything. Returns how much is pending in each band, with which every answer begins, and behind that what the script says.
local function commit(answers)
  for i = 1, written, 500 do redis.call('MSET', unpack(sets, i, math.min(i + 499, written))) end
  for _, key in ipairs(dels) do redis.call('DEL', key) end
  log_changes()
  for index, list in pairs(removals) do call_with('ZREM', PREFIX .. index, list) end
  for index, list in pairs(adds) do call_with('ZADD', PREFIX .. index, list) end
  for _, l in ipairs(lines) do commit_line(l) end
  for _, t in pairs(tenants) do commit_tenant(t) end
  commit_meta()
  for field, by in pairs(stats) do redis.call('HINCRBY', PREFIX .. 'stats', field, by) end
  if announce then
    local shard = string.sub(PREFIX, 5, 7)
    redis.call('PUBLISH', 'bh:ready', string.format('%s %.0f %.0f %.0f', shard, pending[0], pending[1], pending[2]))
  end
  return {pending[0], pending[1], pending[2], unpack(answers)}
end

-- Time until the next lease end (not in an amnesty), processing or retry time; negative when there is none.
local function until_next(in_amnesty)
  local nearest = -1
  for _, index in ipairs({'working:scheduled', 'delay', not in_amnesty and 'working' or nil}) do
    local first = redis.call('ZRANGE', PREFIX .. index, 0, 0, 'WITHSCORES')
    if first[2] then
      local left = max(tonumber(first[2]) - now, 0)
      if nearest < 0 or left < nearest then nearest = left end
    end
  end
  return nearest
end
