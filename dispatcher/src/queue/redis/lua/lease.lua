#!lua flags=allow-oom
-- Gives the best pending tasks to a session, under new leases. A repeat of the same request gives the leases that still hold.
--
-- KEYS[1]  meta of the shard
-- KEYS[2]  memo of the session
-- ARGV[1]  time in ms in tests, 0 for the server's
-- ARGV[2]  number of the request
-- ARGV[3]  part of the request, from 1: a session may ask a shard more than once for one request
-- ARGV[4]  most tasks, at most 250
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
local LOCATIONS, PAGE, MEMO_MS, MEMO_HEAD, MEMO_ENTRY, SEQ_AT, COST_AT = 12, 32, 600000, 15, 48, 74, 84
-- Where a front has the number of returns and the length of the upload, which stay; and the deadline and progress of a new lease.
local RETURNS_AT, UPLOAD_AT = 52, 54
local NOTHING_DONE = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
local request, part, max_tasks = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local bytes_left, first_free = tonumber(ARGV[5]), ARGV[6] == '1'
local accept, cap, band = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local out, told = {0, 0, 0, 0}, 4

local function give(id, left, raw)
  out[told + 1], out[told + 2], out[told + 3] = id, left, raw
  told = told + 3
end

local function answer(why)
  out[1], out[2], out[3], out[4] = pending[0], pending[1], pending[2], why
  return out
end

local remembered, memo = '', redis.call('GET', KEYS[2])
if memo and #memo >= MEMO_HEAD then
  local of_request, at, of_part = struct.unpack('>I8I6B', memo)
  local fresh = now - at < MEMO_MS
  if fresh and request < of_request then return answer(5) end
  if fresh and request == of_request then
    remembered = string.sub(memo, MEMO_HEAD + 1)
    if part <= of_part then
      for i = 1, #remembered, MEMO_ENTRY do
        local id, token = string.sub(remembered, i, i + 31), string.sub(remembered, i + 32, i + 47)
        local raw = redis.call('GET', PREFIX .. 't:' .. id)
        local r = raw and decode(raw)
        if r and r[STATE] == WORKING and r[TOKEN] == token then give(id, max(r[AT] - now, 0), raw) end
      end
      return answer(4)
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

local function has_more()
  for i = 1, #rings do
    if rings[i].more then return true end
  end
  return false
end

-- The tenant whose turn it is. A ring's score is a lower bound of the turn, so nobody unread comes before the last one read.
local function next_tenant()
  for _, ring in ipairs(rings) do
    while ring.more and (#heap == 0 or not ring.last or before(ring.last, heap[1])) do read_on(ring) end
  end
  return pop()
end

local given, leased, parked, over, orphans = {}, 0, {}, false, 0
local holder, lengths, fronts = ARGV[11] .. ARGV[10], string.char(#ARGV[11], #ARGV[10], 0, 0), {}

-- Reads on in a tenant's queue at one location.
local function fill(waiting)
  local wanted = math.min(math.ceil((max_tasks - leased) / (#heap + 1)), 250)
  local ids, keys = redis.call('ZRANGE', PREFIX .. waiting.name, waiting.read, waiting.read + wanted - 1), {}
  local n = #ids
  waiting.ids, waiting.keys, waiting.at, waiting.count = ids, keys, 1, n
  waiting.read, waiting.more = waiting.read + n, n == wanted
  if n == 0 then return end
  for i = 1, n do keys[i] = PREFIX .. 't:' .. ids[i] end
  waiting.raws = redis.call('MGET', unpack(keys))
end

-- The place in line of what comes next; what has no record is dealt with first.
local function place(waiting)
  local raw = waiting.raws[waiting.at]
  return raw and #raw >= HEAD_BYTES and struct.unpack('>I6', raw, SEQ_AT) or 0
end

-- The queue that holds the tenant's first task in line at the locations asked for; nil when there is none.
local function first_in_line(c)
  local best
  for i = 1, #rings do
    local waiting = c.queues[i]
    if not waiting then
      waiting = {name = 'pending:' .. band .. ':' .. rings[i].location .. ':' .. c.tenant, location = rings[i].location,
        read = 0, at = 1, count = 0, more = true}
      c.queues[i] = waiting
    end
    if waiting.at > waiting.count and waiting.more then fill(waiting) end
    if waiting.at <= waiting.count and (not best or place(waiting) < place(best)) then best = waiting end
  end
  return best
end

-- The counts of a tenant, and its line.
local function open(c)
  if not c.line then
    c.counts = tenant(c.tenant)
    c.line = line(c.counts, band)
  end
  return c.counts, c.line
end

-- A front up to the token: but for the flags the same for all of a call.
local function front_of(flags)
  local front = fronts[flags]
  if not front then
    -- This copy begins after every request made so far, so it serves them all.
    local kept = is_set(flags, LATEST) and LATEST or 0
    front = VERSION .. struct.pack('>BBBBI6', WORKING, 0, kept, OPEN, now + accept)
    fronts[flags] = front
  end
  return front
end

local function lease(c, waiting, flags, raw, body)
  local at = waiting.at
  local id, token = waiting.ids[at], sub(ARGV[12], leased * 16 + 1, leased * 16 + 16)
  local t, l = open(c)
  l.turn = c.turn
  waiting.left = waiting.left or queue(l, waiting.location)
  leave_queue(l, waiting.left, id)
  -- Waiting or at work, it is unfinished, and kept.
  t.leases = t.leases + 1
  add(INDEX[WORKING], now + accept, id)
  local record = front_of(flags) .. token .. NOTHING_DONE .. sub(raw, RETURNS_AT, RETURNS_AT + 3) .. lengths
    .. sub(raw, FRONT_BYTES + 1, body) .. holder
  put_raw(waiting.keys[at], record)
  give(id, accept, record)
  given[leased * 2 + 1], given[leased * 2 + 2] = id, token
  leased = leased + 1
  band_time[band] = max(band_time[band], c.turn)
  c.turn = band_time[band] + 1
  l.turn, l.served = c.turn, true
end

-- Leases one task of the tenant. False when it has none that the request can use.
local function serve(c)
  while true do
    local waiting = first_in_line(c)
    if not waiting then return false end
    local raw, state, flags, body, _ = waiting.raws[waiting.at], 0, 0, false, 0
    if raw and #raw >= HEAD_BYTES then
      state, _, flags = byte(raw, 2, 4)
      local upload_high, upload_low, worker, session, receipt_high, receipt_low = byte(raw, UPLOAD_AT, FRONT_BYTES)
      body = body_end(raw, state, upload_high * 256 + upload_low, worker, session, receipt_high * 256 + receipt_low)
    end
    if body and state == PENDING then
      local cost = struct.unpack('>I6', raw, COST_AT)
      over = not first_free and cost > bytes_left
      if over then return false end
      lease(c, waiting, flags, raw, body)
      waiting.at = waiting.at + 1
      bytes_left = bytes_left - cost
      first_free = false
      return true
    end
    local id = waiting.ids[waiting.at]
    waiting.at = waiting.at + 1
    if raw then
      local _, l = open(c)
      leave_queue(l, queue(l, waiting.location), id)
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

local c
while leased < max_tasks and not over do
  c = c or next_tenant()
  if not c then break end
  local t, goes_on = tenant(c.tenant), false
  if t.leases < cap then
    goes_on = serve(c)
  else
    t.parked = 1
    for _, location in ipairs(c.rings) do parked[#parked + 1] = {c.tenant, band .. ':' .. location} end
  end
  -- Alone it comes next in any case.
  if not goes_on then
    c = nil
  elseif #heap > 0 or has_more() then
    push(c)
    c = nil
  end
end

if leased > 0 then
  redis.call('SET', KEYS[2], struct.pack('>I8I6B', request, now, part) .. remembered .. table.concat(given), 'PX', MEMO_MS)
  count('leased', leased)
end
if #lines + #parked > 0 then
  commit({})
  redis.call('ZREMRANGEBYSCORE', PREFIX .. 'pending:rested:' .. band, '-inf', band_time[band])
end
for _, p in ipairs(parked) do
  redis.call('ZREM', PREFIX .. 'pending:ring:' .. p[2], p[1])
  redis.call('SADD', PREFIX .. 'pending:parked:' .. p[1], p[2])
end
return answer(over and 2 or leased >= max_tasks and 3 or 1)
