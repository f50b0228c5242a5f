#!lua flags=allow-oom
-- Says how much there is in a shard, in all and of some tenants, and how old the oldest of it is. Decides nothing, writes nothing.
--
-- KEYS[1] meta of the shard
-- ARGV[1] time in ms in tests, 0 for the server's
-- ARGV[2] most tasks of each index, and most tenants of each band, to look at for their age
-- ARGV[i] tenants, from i = 3 on; at most 100, none twice
--
-- Returns pending tasks by band; done and cancelled tasks; then for the shard, and for each tenant: pending tasks by band, scheduled,
-- leased, delayed and dead tasks, each as how many, age of the oldest that was seen (ms; negative when none was), and 1 when all
-- were looked at.
local CREATED_AT, TIME_AT, MOST_LINES = 68, 6, 1000
local look = tonumber(ARGV[2])
local of, all, whole = {}, {}, {}
for i = 3, #ARGV do of[ARGV[i]] = {} end

local function note(list, place, age)
  if not list[place] or age > list[place] then list[place] = age end
end

-- Notes the age of a task. Its tenant is read from its record: indexes do not say whose a task is.
local function look_at(id, place, field)
  local raw = redis.call('GETRANGE', PREFIX .. 't:' .. id, 0, HEAD_BYTES + 254)
  if #raw < HEAD_BYTES then return end
  local age = math.max(now - struct.unpack('>I6', raw, field), 0)
  note(all, place, age)
  local mine = of[string.sub(raw, HEAD_BYTES + 1, HEAD_BYTES + string.byte(raw, LINE_AT + 1))]
  if mine then note(mine, place, age) end
end

local counts = {pending[0], pending[1], pending[2]}
for i, index in ipairs({'working:scheduled', 'working', 'delay', 'dead'}) do
  counts[3 + i] = redis.call('ZCARD', PREFIX .. index)
  whole[3 + i] = counts[3 + i] <= look
  for _, id in ipairs(redis.call('ZRANGE', PREFIX .. index, 0, look - 1)) do
    look_at(id, 3 + i, index == 'dead' and TIME_AT or CREATED_AT)
  end
end

-- The first of each line of a tenant in a band. False when it has too many lines.
local locations = redis.call('SMEMBERS', PREFIX .. 'locations')
local seen = {}
local function heads(name, band)
  local begin = seen[band .. name] and MOST_LINES + 1 or 1
  seen[band .. name] = true
  for i = begin, math.min(#locations, MOST_LINES) do
    local first = redis.call('ZRANGE', PREFIX .. 'pending:' .. band .. ':' .. locations[i] .. ':' .. name, 0, 0)
    if first[1] then look_at(first[1], band + 1, CREATED_AT) end
  end
  return #locations <= MOST_LINES
end

for band = 0, 2 do
  local turns = PREFIX .. 'pending:turns:' .. band
  whole[band + 1] = redis.call('ZCARD', turns) <= look
  local lines = 0
  for _, name in ipairs(redis.call('ZRANGE', turns, 0, look - 1)) do
    lines = lines + #locations
    if lines > MOST_LINES then
      whole[band + 1] = false
      break
    end
    heads(name, band)
  end
end

local out = {pending[0], pending[1], pending[2], redis.call('ZCARD', PREFIX .. 'done'), redis.call('ZCARD', PREFIX .. 'cancelled')}
local function tell(amounts, ages, looked)
  for place = 1, 7 do
    out[#out + 1] = amounts[place]
    out[#out + 1] = ages[place] or -1
    out[#out + 1] = looked[place] and 1 or 0
  end
end

local parts = {}
for i = 3, #ARGV do
  local t, looked = tenant(ARGV[i]), {}
  for place = 4, 7 do looked[place] = whole[place] end
  for band = 0, 2 do looked[band + 1] = t[band] == 0 or heads(t.name, band) end
  parts[i - 2] = {{t[0], t[1], t[2], t.scheduled, t.leases, t.delayed, t.dead}, of[t.name], looked}
end
tell(counts, all, whole)
for _, part in ipairs(parts) do tell(part[1], part[2], part[3]) end
return out
