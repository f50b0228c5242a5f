-- Keeps a body that nobody understands, once, and forgets the oldest where there are too many, or too much. Not about tasks.
--
-- KEYS[1] bodies by digest
-- KEYS[2] what is known of each, by digest
-- KEYS[3] digests by the time when they came, in ms
-- ARGV[1] digest
-- ARGV[2] body
-- ARGV[3] what is known of it
-- ARGV[4] most that are kept
-- ARGV[5] most bytes that are kept
--
-- Returns 1 for a body that was not kept before, else 0.
if redis.call('ZSCORE', KEYS[3], ARGV[1]) then
  return 0
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('ZADD', KEYS[3], time[1] * 1000 + math.floor(time[2] / 1000), ARGV[1])
local kept, bytes = redis.call('ZRANGE', KEYS[3], 0, -1), 0
for _, digest in ipairs(kept) do bytes = bytes + redis.call('HSTRLEN', KEYS[1], digest) end
local over = #kept - tonumber(ARGV[4])
for i, digest in ipairs(kept) do
  if i > over and bytes <= tonumber(ARGV[5]) then break end
  bytes = bytes - redis.call('HSTRLEN', KEYS[1], digest)
  redis.call('ZREM', KEYS[3], digest)
  redis.call('HDEL', KEYS[1], digest)
  redis.call('HDEL', KEYS[2], digest)
end
return 1
