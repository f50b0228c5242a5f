#!lua flags=allow-oom
-- Gives the best pending tasks to a session, under new leases. A repeat of the same request gives the leases that still hold.
--
-- KEYS[1]  meta of the shard
-- KEYS[2]  memo of the session
-- ARGV[1]  time in ms in tests, 0 for the server's
-- ARGV[2]  number of the request
-- ARGV[3]  part of the request, from 1: a session may ask a shard more than once for one request
-- ARGV[4]  most tasks, at most 100
-- ARGV[5]  most bytes
-- ARGV[6]  1 when the first task is given whatever its size
-- ARGV[7]  how long a lease lasts before it is accepted (ms)
-- ARGV[8]  most leases of a tenant
-- ARGV[9]  band
-- ARGV[10] session
-- ARGV[11] worker
-- ARGV[12] 16 unguessable bytes for each task
-- ARGV[i]  locations, from i = 13 on; none twice
--
-- Returns pending tasks by band, why it ended (1 no more tasks, 2 the next one does not fit the bytes, 3 enough tasks, 4 repeat of
-- a part, 5 repeat of an older request), and for each lease: task, ms left, record.
--
-- Keeps: tenants by turn, of a tenant the first in line; whom the request cannot use is passed over; the record decides, not the
-- index.
local LOCATIONS, PAGE, MEMO_MS, MEMO_HEAD, MEMO_ENTRY, COST_AT = 12, 32, 600000, 15, 48, 84
local request, part, max_tasks = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local bytes_left, first_free = tonumber(ARGV[5]), ARGV[6] == '1'
local accept, cap, band = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local leases = {}

local function give(id, left, raw)
  leases[#leases + 1] = id
  leases[#leases + 1] = left
  leases[#leases + 1] = raw
end

local function answer(out, why)
  out[#out + 1] = why
  for _, part_of_lease in ipairs(leases) do out[#out + 1] = part_of_lease end
  return out
end

local remembered, memo = '', redis.call('GET', KEYS[2])
if memo and #memo >= MEMO_HEAD then
  local of_request, at, of_part = struct.unpack('>I8I6B', memo)
  local fresh = now - at < MEMO_MS
  if fresh and request < of_request then return answer({pending[0], pending[1], pending[2]}, 5) end
  if fresh and request == of_request then
    remembered = string.sub(memo, MEMO_HEAD + 1)
    if part <= of_part then
      for i = 1, #remembered, MEMO_ENTRY do
        local id, token = string.sub(remembered, i, i + 31), string.sub(remembered, i + 32, i + 47)
        local raw = redis.call('GET', PREFIX .. 't:' .. id)
        local r = raw and decode(raw)
        if r and r[STATE] == WORKING and r[TOKEN] == token then give(id, math.max(r[AT] - now, 0), raw) end
      end
      return answer({pending[0], pending[1], pending[2]}, 4)
    end
  end
end

-- A name as numbers of six bytes each, which compare like its bytes. A heap compares names far too often to do that byte by byte.
local function spelling(name)
  local numbers = {}
  for i = 1, #name, 6 do
    local piece = string.sub(name, i, i + 5)
    numbers[#numbers + 1] = struct.unpack('>I6', piece .. string.rep('\0', 6 - #piece))
  end
  return numbers
end

-- True when a comes before b: by turn, then by name in byte order.
local function before(a, b)
  if a.turn ~= b.turn then return a.turn < b.turn end
  local x, y = a.spelling, b.spelling
  for i = 1, math.min(#x, #y) do
    if x[i] ~= y[i] then return x[i] < y[i] end
  end
  return #a.tenant < #b.tenant
end

-- Tenants that wait, the next one first: a binary heap, because a band can have very many.
local heap, seen, rings = {}, {}, {}

local function push(item)
  local i = #heap + 1
  while i > 1 do
    local up = math.floor(i / 2)
    if not before(item, heap[up]) then break end
    heap[i] = heap[up]
    i = up
  end
  heap[i] = item
end

local function pop()
  local top, last = heap[1], table.remove(heap)
  local n, i = #heap, 1
  while n > 0 do
    local child = i * 2
    if child < n and before(heap[child + 1], heap[child]) then child = child + 1 end
    if child > n or not before(heap[child], last) then
      heap[i] = last
      break
    end
    heap[i] = heap[child]
    i = child
  end
  return top
end

for i = LOCATIONS + 1, #ARGV do
  rings[#rings + 1] = {location = ARGV[i], read = 0, more = true}
end

-- Reads the next tenants of a ring.
local function read_on(ring)
  local key = PREFIX .. 'pending:ring:' .. band .. ':' .. ring.location
  local page = redis.call('ZRANGE', key, ring.read, ring.read + PAGE - 1, 'WITHSCORES')
  ring.read = ring.read + #page / 2
  ring.more = #page / 2 == PAGE
  if #page == 0 then return end
  local last = page[#page - 1]
  ring.last = {turn = tonumber(page[#page]), tenant = last, spelling = spelling(last)}
  local names = {}
  for i = 1, #page, 2 do names[#names + 1] = page[i] end
  local turns = redis.call('ZMSCORE', PREFIX .. 'pending:turns:' .. band, unpack(names))
  for i, name in ipairs(names) do
    local c = seen[name]
    if not c then
      c = {tenant = name, spelling = spelling(name), turn = tonumber(turns[i] or page[i * 2]), queues = {}, rings = {}}
      seen[name] = c
      push(c)
    end
    c.rings[#c.rings + 1] = ring.location
  end
end

-- The tenant whose turn it is. A ring's score is a lower bound of the turn, so nobody unread comes before the last one read.
local function next_tenant()
  for _, ring in ipairs(rings) do
    while ring.more and (#heap == 0 or not ring.last or before(ring.last, heap[1])) do read_on(ring) end
  end
  return pop()
end

-- Reads on in a tenant's queue at one location.
local function fill(queue, wanted)
  local page = redis.call('ZRANGE', PREFIX .. queue.name, queue.read, queue.read + wanted - 1, 'WITHSCORES')
  queue.read = queue.read + #page / 2
  queue.more = #page / 2 == wanted
  queue.ids, queue.seqs, queue.at, queue.raws = {}, {}, 1, {}
  if #page == 0 then return end
  local keys = {}
  for i = 1, #page, 2 do
    queue.ids[#queue.ids + 1] = page[i]
    queue.seqs[#queue.seqs + 1] = tonumber(page[i + 1])
    keys[#keys + 1] = PREFIX .. 't:' .. page[i]
  end
  queue.raws = redis.call('MGET', unpack(keys))
end

-- The queue that holds the tenant's first task in line at the locations asked for; nil when there is none.
local function first_in_line(c, wanted)
  local best
  for i, ring in ipairs(rings) do
    local queue = c.queues[i]
    if not queue then
      queue = {location = ring.location, name = 'pending:' .. band .. ':' .. ring.location .. ':' .. c.tenant,
        read = 0, at = 1, ids = {}, more = true}
      c.queues[i] = queue
    end
    if queue.at > #queue.ids and queue.more then fill(queue, wanted) end
    if queue.at <= #queue.ids and (not best or queue.seqs[queue.at] < best.seqs[best.at]) then best = queue end
  end
  return best
end

local given, parked, over, orphans = {}, {}, false, 0
local holder = ARGV[11] .. ARGV[10]

local function lease(raw, body, front, id, c, location)
  local token = string.sub(ARGV[12], #given * 16 + 1, #given * 16 + 16)
  local t = tenant(c.tenant)
  local l = line(t, band)
  l.turn = c.turn
  leave_queue(l, location, id)
  count_state(t, PENDING, -1)
  count_state(t, WORKING, 1)
  add(INDEX[WORKING], now + accept, id)
  -- This copy begins after every request made so far, so it serves them all.
  local flags = is_set(front[FLAGS], LATEST) and LATEST or 0
  local leased = VERSION .. struct.pack(FRONT, WORKING, 0, flags, OPEN, now + accept, token, 0, 0, 0, 0, front[RETURNS],
    front[UPLOAD], #ARGV[11], #ARGV[10], 0) .. string.sub(raw, FRONT_BYTES + 1, body) .. holder
  put_raw(PREFIX .. 't:' .. id, leased)
  give(id, accept, leased)
  given[#given + 1] = id .. token
  band_time[band] = math.max(band_time[band], c.turn)
  c.turn = band_time[band] + 1
  l.turn, l.served = c.turn, true
end

-- Leases one task of the tenant. False when it has none that the request can use.
local function serve(c, wanted)
  while true do
    local queue = first_in_line(c, wanted)
    if not queue then return false end
    local id, raw = queue.ids[queue.at], queue.raws[queue.at]
    local front = raw and #raw >= HEAD_BYTES and {struct.unpack(FRONT, raw, 2)}
    local body = front and body_end(raw, front[STATE], front[UPLOAD], front[WORKER], front[SESSION], front[RECEIPT])
    if body and front[STATE] == PENDING then
      local cost = struct.unpack('>I6', raw, COST_AT)
      over = not first_free and cost > bytes_left
      if over then return false end
      queue.at = queue.at + 1
      lease(raw, body, front, id, c, queue.location)
      bytes_left = bytes_left - cost
      first_free = false
      return true
    end
    queue.at = queue.at + 1
    if raw then
      leave_queue(line(tenant(c.tenant), band), queue.location, id)
      if not body then add('damaged', now, id) end
      count('fixed', 1)
    else
      -- While a slot migrates, a record can be on the other node already: pass over, never drop.
      orphans = orphans + 1
      over = orphans > 100
      if over then return false end
    end
  end
end

while #given < max_tasks and not over do
  local c = next_tenant()
  if not c then break end
  local t = tenant(c.tenant)
  if t.leases < cap then
    if serve(c, math.min(math.ceil((max_tasks - #given) / (#heap + 1)), 100)) then push(c) end
  else
    t.parked = 1
    for _, location in ipairs(c.rings) do parked[#parked + 1] = {c.tenant, band .. ':' .. location} end
  end
end

if #given > 0 then
  redis.call('SET', KEYS[2], struct.pack('>I8I6B', request, now, part) .. remembered .. table.concat(given), 'PX', MEMO_MS)
  count('leased', #given)
end
if #lines + #parked > 0 then
  commit()
  redis.call('ZREMRANGEBYSCORE', PREFIX .. 'pending:rested:' .. band, '-inf', band_time[band])
end
for _, p in ipairs(parked) do
  redis.call('ZREM', PREFIX .. 'pending:ring:' .. p[2], p[1])
  redis.call('SADD', PREFIX .. 'pending:parked:' .. p[1], p[2])
end
return answer({pending[0], pending[1], pending[2]}, over and 2 or #given >= max_tasks and 3 or 1)
