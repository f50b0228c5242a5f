-- What every script does to its shard: read first (clock, records, lines), plan the changes, write them all in commit(), last.
-- Redis does not undo a script that fails half-way, so nothing may fail between the first write and the end.
--
-- Numbers go to redis.call as numbers, which Redis formats with 17 digits; Lua's own concatenation keeps 14 and is used for
-- nothing above a band. Texts are never compared with <, which follows the server's locale.
--
-- KEYS[1]  meta of the shard, for every script
-- ARGV[1]  time in ms in tests, 0 for the server's, for every script
local PREFIX = string.sub(KEYS[1], 1, -5)
local meta = redis.call('HMGET', KEYS[1], 'clk', 'off', 'seq', 'pending0', 'pending1', 'pending2', 'time0', 'time1', 'time2')
local seq = tonumber(meta[3]) or 0
-- Pending tasks of each band.
local pending = {[0] = tonumber(meta[4]) or 0, tonumber(meta[5]) or 0, tonumber(meta[6]) or 0}
-- Virtual time of each band: where the tenant that was served last began.
local band_time = {[0] = tonumber(meta[7]) or 0, tonumber(meta[8]) or 0, tonumber(meta[9]) or 0}

-- Time of the shard in ms: the server's, or the caller's in tests; never earlier than it was, whichever server answers.
local now, behind = tonumber(ARGV[1]), 0
if now == 0 then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + (tonumber(meta[2]) or 0)
  behind = math.max((tonumber(meta[1]) or 0) - now, 0)
end
now = math.max(now, tonumber(meta[1]) or 0)

local sets, dels, adds, removals, lines, counts, tenants = {}, {}, {}, {}, {}, {}, {}
local freed, announce = {}, false

local function id_of(key)
  return string.sub(key, -32)
end

-- All records of the call, in order; false where there is none. At most 100.
local function records()
  return #KEYS > 1 and redis.call('MGET', unpack(KEYS, 2)) or {}
end

local function put(key, r)
  local raw = encode(r)
  sets[#sets + 1] = key
  sets[#sets + 1] = raw
  return raw
end

-- Puts an entry into an index, or moves it there.
local function add(index, score, id)
  local list = adds[index]
  if not list then list = {} adds[index] = list end
  list[#list + 1] = score
  list[#list + 1] = id
end

local function remove(index, id)
  local list = removals[index]
  if not list then list = {} removals[index] = list end
  list[#list + 1] = id
end

local function count(field, by)
  counts[field] = (counts[field] or 0) + by
end

local function tenant(kind, name, by)
  local field = kind .. ':' .. name
  tenants[field] = (tenants[field] or 0) + by
end

-- The line of a tenant in one band: how many of its tasks wait, at all locations, and its turn.
local function line(band, name)
  local id = band .. ':' .. name
  local l = lines[id]
  if not l then
    local n = tonumber(redis.call('HGET', PREFIX .. 'tenants', 'p' .. id)) or 0
    local turn = redis.call('ZSCORE', PREFIX .. (n > 0 and 'pending:turns:' or 'pending:rested:') .. band, name)
    l = {band = band, tenant = name, n = n, was = n, turn = tonumber(turn) or 0, locations = {}}
    lines[id] = l
  end
  return l
end

local function queue_of(r)
  return 'pending:' .. r[BAND] .. ':' .. r[LOCATION] .. ':' .. r[TENANT]
end

local function leave_line(band, name, location, id)
  local l = line(band, name)
  l.n = math.max(l.n - 1, 0)
  l.locations[location] = true
  pending[band] = math.max(pending[band] - 1, 0)
  remove('pending:' .. band .. ':' .. location .. ':' .. name, id)
end

local function join_line(r, id)
  local l = line(r[BAND], r[TENANT])
  if l.n == 0 then l.turn = math.max(l.turn, band_time[r[BAND]]) end
  l.n = l.n + 1
  l.locations[r[LOCATION]] = true
  announce = announce or pending[r[BAND]] == 0
  pending[r[BAND]] = pending[r[BAND]] + 1
  add(queue_of(r), r[SEQ], id)
end

-- Unfinished and dead tasks count for their tenant.
local function is_kept(state)
  return state <= DELAYED or state == DEAD
end

-- Takes a task out of where its state says it is.
local function take_out(r, id)
  local state = r[STATE]
  if state == PENDING then leave_line(r[BAND], r[TENANT], r[LOCATION], id) else remove(INDEX[state], id) end
  if is_kept(state) then tenant('u', r[TENANT], -1) end
  if state == WORKING then
    tenant('w', r[TENANT], -1)
    freed[r[TENANT]] = true
  end
end

-- Puts a task into any other place than pending; `at` is its time there.
local function settle_in(r, id, state, at)
  r[STATE], r[AT] = state, at
  add(INDEX[state], at, id)
  if is_kept(state) then tenant('u', r[TENANT], 1) end
  if state == WORKING then tenant('w', r[TENANT], 1) end
end

-- Puts a task into pending, at the end of its tenant's line or at its old place.
local function wait(r, id, at_end)
  r[STATE], r[AT] = PENDING, 0
  if at_end then
    seq = seq + 1
    r[SEQ] = seq
  end
  join_line(r, id)
  tenant('u', r[TENANT], 1)
end

-- A new run of the same spec, at once, of a task that has been taken out. Of the old run only the upload is kept, and `parent`:
-- whose report started the new one.
local function run_again(r, id, parent)
  r[REASON], r[LAST], r[PARENT] = 0, OPEN, parent
  r[FLAGS] = has(r, LATEST) and LATEST or 0
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

-- Calls a command with up to 200 arguments of a list at a time, in pairs where they are pairs.
local function in_pieces(list, ...)
  local head = {...}
  for i = 1, #list, 200 do
    local command = {unpack(head)}
    for j = i, math.min(i + 199, #list) do command[#command + 1] = list[j] end
    redis.call(unpack(command))
  end
end

local function commit_line(id, l)
  local turns, rested = PREFIX .. 'pending:turns:' .. l.band, PREFIX .. 'pending:rested:' .. l.band
  if l.n > 0 then
    redis.call('HSET', PREFIX .. 'tenants', 'p' .. id, l.n)
    redis.call('ZADD', turns, l.turn, l.tenant)
    if l.was == 0 then redis.call('ZREM', rested, l.tenant) end
  else
    redis.call('HDEL', PREFIX .. 'tenants', 'p' .. id)
    redis.call('ZREM', turns, l.tenant)
    -- A turn ahead of the band's time is remembered, or a tenant would win by coming back often.
    if l.turn > band_time[l.band] then redis.call('ZADD', rested, l.turn, l.tenant) end
  end
  for location in pairs(l.locations) do
    local ring = PREFIX .. 'pending:ring:' .. l.band .. ':' .. location
    if redis.call('EXISTS', PREFIX .. 'pending:' .. l.band .. ':' .. location .. ':' .. l.tenant) == 1 then
      local is_new = redis.call('ZADD', ring, l.turn, l.tenant)
      if is_new == 1 then redis.call('SADD', PREFIX .. 'locations', location) end
    else
      redis.call('ZREM', ring, l.tenant)
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

-- Writes everything. Returns how much is pending in each band, with which every answer begins.
local function commit()
  in_pieces(sets, 'MSET')
  in_pieces(dels, 'DEL')
  for index, list in pairs(removals) do in_pieces(list, 'ZREM', PREFIX .. index) end
  for index, list in pairs(adds) do in_pieces(list, 'ZADD', PREFIX .. index) end
  for field, by in pairs(tenants) do
    if by ~= 0 and redis.call('HINCRBY', PREFIX .. 'tenants', field, by) <= 0 then
      redis.call('HDEL', PREFIX .. 'tenants', field)
    end
  end
  for id, l in pairs(lines) do commit_line(id, l) end
  for name in pairs(freed) do unpark(name) end
  redis.call('HSET', KEYS[1], 'clk', now, 'seq', seq, 'pending0', pending[0], 'pending1', pending[1], 'pending2', pending[2],
    'time0', band_time[0], 'time1', band_time[1], 'time2', band_time[2])
  for field, by in pairs(counts) do redis.call('HINCRBY', KEYS[1], field, by) end
  if announce then
    local shard = string.sub(PREFIX, 5, 7)
    redis.call('PUBLISH', 'bh:ready', string.format('%s %.0f %.0f %.0f', shard, pending[0], pending[1], pending[2]))
  end
  return {pending[0], pending[1], pending[2]}
end

-- Time until the next lease end (not in an amnesty), processing or retry time; negative when there is none.
local function until_next(in_amnesty)
  local nearest = -1
  for _, index in ipairs({'working:scheduled', 'delay', not in_amnesty and 'working' or nil}) do
    local first = redis.call('ZRANGE', PREFIX .. index, 0, 0, 'WITHSCORES')
    if first[2] then
      local left = math.max(tonumber(first[2]) - now, 0)
      if nearest < 0 or left < nearest then nearest = left end
    end
  end
  return nearest
end
