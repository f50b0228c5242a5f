-- Keeps what is known of a rule, unless it has changed since it was read. Not about tasks.
--
-- KEYS[1] records by rule
-- ARGV[1] rule
-- ARGV[2] revision that there is, '' when there is to be none
-- ARGV[3] record from now on, which begins with its revision and a blank
--
-- Returns 1 when it is kept, 0 when another revision is there.
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old == ARGV[3] then return 1 end
-- One that is damaged has no revision, and is never written over.
if (old and (string.match(old, '^%d+') or '?') or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
