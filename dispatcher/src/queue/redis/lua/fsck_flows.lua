#!lua flags=allow-oom
-- Writes down tasks that no move accounts for, if no task has moved since they were counted.
--
-- KEYS[1]     meta of the shard
-- ARGV[1]     time in ms in tests, 0 for the server's
-- ARGV[2]     1 to write them down
-- ARGV[3]     meta from the newest place in line on, as it was before the count
-- ARGV[4]     sum of all stats, as it was before the count
-- ARGV[i]     counter of an item, from i = 5 on
-- ARGV[i+1]   how many to add to it
--
-- Returns 1 when the count holds, 0 when something has moved.
--
-- Keeps: what was found is added, never taken away, so that a later look at the sum notices it as it notices a move.
local CLOCK_BYTES = 18
local sum = 0
for _, n in ipairs(redis.call('HVALS', PREFIX .. 'stats')) do sum = sum + (tonumber(n) or 0) end
if string.sub(meta or '', CLOCK_BYTES + 1) ~= ARGV[3] or sum ~= tonumber(ARGV[4]) then return {0} end
if ARGV[2] == '1' then
  for i = 5, #ARGV, 2 do redis.call('HINCRBY', PREFIX .. 'stats', ARGV[i], ARGV[i + 1]) end
end
return {1}
