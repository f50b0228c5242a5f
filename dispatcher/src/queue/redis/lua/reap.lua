#!lua flags=allow-oom
-- Forgets finished tasks whose retention is over, and done and cancelled ones while there are too many bytes of them.
--
-- KEYS[1]   meta of the shard
-- KEYS[i+1] record of item i; at most 250, no task twice
-- ARGV[1]   time in ms in tests, 0 for the server's
-- ARGV[2]   state that the items were found in: 5 done, 6 dead, 7 cancelled
-- ARGV[3]   how long such tasks stay (ms)
-- ARGV[4]   most bytes of done and cancelled records
--
-- Returns pending tasks by band, how many were forgotten, how many index entries were put right.
--
-- Keeps: a task that was asked for again meanwhile is not forgotten; a dead task goes by age alone.
local state, retain, most_bytes = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
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
  elseif r[AT] + retain <= now or state ~= DEAD and finished > most_bytes then
    take_out(r, id)
    weigh(r.was, -r.bytes)
    dels[#dels + 1] = key
    count_move('reaped', state)
    reaped = reaped + 1
  end
end
return commit({reaped, fixed})
