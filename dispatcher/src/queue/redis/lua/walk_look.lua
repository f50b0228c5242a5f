#!lua flags=allow-oom
-- Shows walks of a shard. Decides nothing, writes nothing.
--
-- KEYS[1] meta of the shard
-- ARGV[1] time in ms in tests, 0 for the server's
-- ARGV[2] 1 with those that are finished
-- ARGV[3] most walks
--
-- Returns pending tasks by band, the time (ms), then for each walk: its id without the shard, its record, its open tasks. Where there are
-- more, those are left out that finished first.
local most = tonumber(ARGV[3])
local ids
if ARGV[2] == '1' then
  ids = redis.call('ZRANGEBYSCORE', PREFIX .. 'walks', '(' .. string.format('%.0f', now), '+inf')
  while #ids > most do table.remove(ids, 1) end
else
  ids = redis.call('ZRANGE', PREFIX .. 'walks:active', 0, most - 1)
end
local out = {pending[0], pending[1], pending[2], now}
for _, id in ipairs(ids) do
  local record = redis.call('GET', PREFIX .. 'walk:' .. id)
  if record then
    out[#out + 1] = id
    out[#out + 1] = record
    out[#out + 1] = redis.call('ZCARD', PREFIX .. 'walk:open:' .. id)
  end
end
return out
