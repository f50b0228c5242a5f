-- Keeps a body that nobody understands, once, and forgets the oldest where there are too many. Not about tasks.
--
-- KEYS[1] bodies by digest
-- KEYS[2] digests, the oldest first
-- ARGV[1] digest
-- ARGV[2] body
-- ARGV[3] most that are kept
--
-- Returns 1 for a body that was not kept before, else 0.
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then
  return 0
end
redis.call('RPUSH', KEYS[2], ARGV[1])
while redis.call('LLEN', KEYS[2]) > tonumber(ARGV[3]) do
  redis.call('HDEL', KEYS[1], redis.call('LPOP', KEYS[2]))
end
return 1
