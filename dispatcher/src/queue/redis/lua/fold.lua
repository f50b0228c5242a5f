#!lua flags=allow-oom
-- Adds what a shard that is given up has counted to what this one has.
--
-- KEYS[1] meta of the shard
-- ARGV[1] time in ms in tests, 0 for the server's
-- ARGV[2] a name for the shard that is given up, among the counters
-- ARGV[i] counter of an item, from i = 3 on
-- ARGV[i+1] how much it has
--
-- Returns 1 when it is added, 0 when it was before.
--
-- Keeps: a repeat changes nothing, as long as the name is there.
if redis.call('HSETNX', PREFIX .. 'stats', ARGV[2], 0) == 0 then return {0} end
for i = 3, #ARGV, 2 do redis.call('HINCRBY', PREFIX .. 'stats', ARGV[i], ARGV[i + 1]) end
return {1}
