#!lua flags=allow-oom
-- Sets counters to a recount, if no task has moved since the recount began.
--
-- KEYS[1]       meta of the shard
-- ARGV[1]       time in ms in tests, 0 for the server's
-- ARGV[2]       1 to mend
-- ARGV[3]       meta from the newest place in line on, as it was before the recount
-- ARGV[4]       sum of all stats, as it was before the recount
-- ARGV[5]       unfinished tasks, pending tasks of each band, bytes of finished records as recounted, packed; empty to leave them
-- ARGV[2*i+4]   tenant of item i; at most 100 items
-- ARGV[2*i+5]   recount of item i: kept tasks, leases, pending tasks of each band, scheduled, delayed, dead tasks, packed
--
-- Returns 1 when the recount holds, 0 when something has moved.
--
-- Keeps: every move changes meta or a statistic, so a recount that was overtaken is never written. Whether a tenant has left
-- rings is not a count and stays.
local CLOCK_BYTES = 18
local sum = 0
for _, n in ipairs(redis.call('HVALS', PREFIX .. 'stats')) do sum = sum + (tonumber(n) or 0) end
if string.sub(meta or '', CLOCK_BYTES + 1) ~= ARGV[3] or sum ~= tonumber(ARGV[4]) then return {0} end
if ARGV[2] ~= '1' then return {1} end
for i = 1, (#ARGV - 5) / 2 do
  local t = tenant(ARGV[2 * i + 4])
  t.kept, t.leases, t[0], t[1], t[2], t.scheduled, t.delayed, t.dead = struct.unpack('>I5I5I5I5I5I5I5I5', ARGV[2 * i + 5])
  commit_tenant(t)
end
if ARGV[5] ~= '' then
  unfinished, pending[0], pending[1], pending[2], finished = struct.unpack('>I7I7I7I7I7', ARGV[5])
  commit_meta()
  redis.call('PUBLISH', 'bh:ready', string.format('%s %.0f %.0f %.0f', string.sub(PREFIX, 5, 7), pending[0], pending[1], pending[2]))
end
return {1}
