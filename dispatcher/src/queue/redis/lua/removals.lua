-- Notes objects that were removed at their origin, each once with the time when that was told last, and forgets the oldest where there
-- are too many. Not about tasks.
--
-- KEYS[1] notes by time, in ms
-- ARGV[1] most that are kept
-- ARGV[i] notes
--
-- Returns how many are new.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local new = 0
for i = 2, #ARGV do
  new = new + redis.call('ZADD', KEYS[1], now, ARGV[i])
end
local over = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[1])
if over > 0 then
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, over - 1)
end
return new
