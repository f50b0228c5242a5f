#!lua flags=allow-oom
-- Forgets finished tasks whose retention is over.
--
-- KEYS[1]   meta of the shard
-- KEYS[i+1] record of item i; at most 100, no task twice
-- ARGV[1]   time in ms in tests, 0 for the server's
-- ARGV[2]   state that the items were found in: 5 done, 6 dead, 7 cancelled
-- ARGV[3]   how long such tasks stay (ms)
--
-- Returns pending tasks by band, how many were forgotten, how many index entries were put right.
--
-- Keeps: a task that was asked for again meanwhile is not forgotten.
local state, retain = tonumber(ARGV[2]), tonumber(ARGV[3])
local reaped, fixed = 0, 0
local raws = records()
for i = 1, #KEYS - 1 do
  local key = KEYS[i + 1]
  local id = id_of(key)
  local r = raws[i] and decode(raws[i])
  if not r or r[STATE] ~= state then
    if redis.call('ZSCORE', PREFIX .. INDEX[state], id) then
      fix(INDEX[state], id, raws[i] and not r)
      fixed = fixed + 1
    end
  elseif r[AT] + retain <= now then
    take_out(r, id)
    dels[#dels + 1] = key
    reaped = reaped + 1
  end
end
if reaped > 0 then count('reaped', reaped) end
local out = commit()
out[4], out[5] = reaped, fixed
return out
