#!lua flags=allow-oom
-- Compares lines of waiting tasks with the rings and turns through which leases find them, each line at one moment.
--
-- KEYS[1]       meta of the shard
-- ARGV[1]       time in ms in tests, 0 for the server's
-- ARGV[2]       1 to mend
-- ARGV[3*i]     band of item i; at most 100 items
-- ARGV[3*i+1]   location of item i; a colon, which no location has, to ask for the turn alone
-- ARGV[3*i+2]   tenant of item i
--
-- Returns one integer for each item: 0 right, 1 tasks wait and no lease finds them, 2 tasks wait without a turn, 3 the location is
-- not known, 4 a turn for nothing, 5 a place in a ring for nothing.
--
-- Keeps: a tenant that has left its rings because it holds as many leases as it may stays away until one ends.
local TURN_ALONE = ':'
local mend = ARGV[2] == '1'

local function check_turn(t, band)
  local turns = PREFIX .. 'pending:turns:' .. band
  if t[tonumber(band)] > 0 or not redis.call('ZSCORE', turns, t.name) then return 0 end
  if mend then redis.call('ZREM', turns, t.name) end
  return 4
end

local function put_back(t, band, location, turn, is_away)
  local rested = PREFIX .. 'pending:rested:' .. band
  if not turn then
    local before = tonumber(redis.call('ZSCORE', rested, t.name) or nil) or 0
    turn = string.format('%.0f', math.max(before, band_time[tonumber(band)]))
  end
  redis.call('ZREM', rested, t.name)
  redis.call('ZADD', PREFIX .. 'pending:turns:' .. band, turn, t.name)
  if not is_away then redis.call('ZADD', PREFIX .. 'pending:ring:' .. band .. ':' .. location, turn, t.name) end
  redis.call('SADD', PREFIX .. 'locations', location)
  announce = true
end

local function check_line(t, band, location)
  local place = band .. ':' .. location
  local ring = PREFIX .. 'pending:ring:' .. place
  local in_ring = redis.call('ZSCORE', ring, t.name)
  if redis.call('ZCARD', PREFIX .. 'pending:' .. place .. ':' .. t.name) == 0 then
    if in_ring and mend then redis.call('ZREM', ring, t.name) end
    return in_ring and 5 or 0
  end
  local is_away = not in_ring and t.parked == 1 and t.leases > 0
    and redis.call('SISMEMBER', PREFIX .. 'pending:parked:' .. t.name, place) == 1
  local turn = redis.call('ZSCORE', PREFIX .. 'pending:turns:' .. band, t.name)
  local code = 0
  if not in_ring and not is_away then
    code = 1
  elseif not turn then
    code = 2
  elseif redis.call('SISMEMBER', PREFIX .. 'locations', location) == 0 then
    code = 3
  end
  if code > 0 and mend then put_back(t, band, location, turn, is_away) end
  return code
end

local answers = {}
for i = 1, (#ARGV - 2) / 3 do
  local band, location, t = ARGV[3 * i], ARGV[3 * i + 1], tenant(ARGV[3 * i + 2])
  answers[i] = location == TURN_ALONE and check_turn(t, band) or location ~= TURN_ALONE and check_line(t, band, location) or 0
end
if announce then
  redis.call('PUBLISH', 'bh:ready', string.format('%s %.0f %.0f %.0f', string.sub(PREFIX, 5, 7), pending[0], pending[1], pending[2]))
end
return answers
