-- Keeps a body that nobody understands, once, and forgets the oldest where there are too many. Not about tasks.
--
-- KEYS[1] bodies by digest
-- KEYS[2] what is known of each, by digest
-- KEYS[3] digests by the time when they came, in ms
-- ARGV[1] digest
-- ARGV[2] body
-- ARGV[3] what is known of it
-- ARGV[4] most that are kept
--
-- Returns 1 for a body that was not kept before, else 0.
if redis.call('ZSCORE', KEYS[3], ARGV[1]) then
  return 0
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('ZADD', KEYS[3], time[1] * 1000 + math.floor(time[2] / 1000), ARGV[1])
while redis.call('ZCARD', KEYS[3]) > tonumber(ARGV[4]) do
  local oldest = redis.call('ZPOPMIN', KEYS[3])[1]
  redis.call('HDEL', KEYS[1], oldest)
  redis.call('HDEL', KEYS[2], oldest)
end
return 1
