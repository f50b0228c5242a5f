#!lua flags=allow-oom
-- Moves scheduled and delayed tasks whose time has come to the end of their tenants' lines in pending.
--
-- KEYS[1]   meta of the shard
-- KEYS[i+1] record of item i; at most 200, scheduled ones first, no task twice
-- ARGV[1]   time in ms in tests, 0 for the server's
-- ARGV[2]   how many of the items are from scheduled
-- ARGV[3]   1 in an amnesty
--
-- Returns pending tasks by band, how many were promoted, how many index entries were put right, and ms until the next lease end,
-- processing or retry time, negative when none.
--
-- Keeps: nothing is promoted before its time; what is promoted does not overtake what waits already.
local scheduled = tonumber(ARGV[2])
local promoted, fixed = 0, 0
local raws = records()
for i = 1, #KEYS - 1 do
  local key, from = KEYS[i + 1], i <= scheduled and SCHEDULED or DELAYED
  local id = id_of(key)
  local r = raws[i] and decode(raws[i])
  if not r or r[STATE] ~= from then
    if redis.call('ZSCORE', PREFIX .. INDEX[from], id) then
      fix(INDEX[from], id, raws[i] and not r)
      fixed = fixed + 1
    end
  elseif r[AT] <= now then
    take_out(r, id)
    r[REASON] = 0
    wait(r, id, true)
    put(key, r)
    count_move('promoted', from)
    promoted = promoted + 1
  end
end
local out = commit({promoted, fixed})
out[6] = until_next(ARGV[3] == '1')
return out
