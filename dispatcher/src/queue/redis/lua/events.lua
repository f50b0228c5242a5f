#!lua flags=allow-oom
-- Reads the log of changes after a place in it, and keeps changes being logged: who reads wants to read on.
--
-- KEYS[1] meta of the shard
-- ARGV[1] time in ms in tests, 0 for the server's
-- ARGV[2] place to read on from; empty for the end of the log
-- ARGV[3] how long changes are logged from now on at least (ms)
-- ARGV[4] most entries to read
--
-- Returns 1, or 0 when what came after that place is not all there; 1 when there may be more; the place to go on at; then, for each
-- entry and tenant, the tenant and its tasks, of 32 digits each.
--
-- Keeps: an entry is either read, or its loss is told. The entry at the place itself proves that nothing between was lost: the log
-- drops its oldest entries first, and is begun anew when it was not kept.
local keep, log = tonumber(ARGV[3]), PREFIX .. 'events'

if logged <= now then
  redis.call('UNLINK', log)
  redis.call('XADD', log, '*', '', '')
end
if logged < now + keep / 2 then
  logged = now + keep
  commit_meta()
end

local place = ARGV[2]
if place == '' or #redis.call('XRANGE', log, place, place) == 0 then
  local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
  if not newest[1] then newest = {{redis.call('XADD', log, '*', '', '')}} end
  return {place == '' and 1 or 0, 0, newest[1][1]}
end
local entries = redis.call('XRANGE', log, '(' .. place, '+', 'COUNT', tonumber(ARGV[4]))
local out = {1, #entries == tonumber(ARGV[4]) and 1 or 0, place}
for _, entry in ipairs(entries) do
  out[3] = entry[1]
  for _, part in ipairs(entry[2]) do out[#out + 1] = part end
end
return out
