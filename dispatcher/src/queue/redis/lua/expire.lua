#!lua flags=allow-oom
-- Ends leases that ran out, as the caller decided, if they are still what it read and still over: a renewal may have won.
--
-- KEYS[1]   meta of the shard
-- KEYS[i+1] record of item i; at most 250, no task twice
-- ARGV[1]   time in ms in tests, 0 for the server's
-- ARGV[i+1] verdict on item i, packed; empty when the caller could not read the record
--
-- Returns pending tasks by band, then one integer for each item: 1 an accepted lease ended, 2 one that was never accepted,
-- 3 the index was wrong, 0 nothing to do.
--
-- Keeps: no lease ends while it lasts; a request made during the copy stays known, because its success may still come.
local raws, answers = records(), {}
for i = 1, #KEYS - 1 do
  local key, packed = KEYS[i + 1], ARGV[i + 1]
  local id = id_of(key)
  local r = raws[i] and decode(raws[i])
  local code = 0
  if not r or r[STATE] ~= WORKING then
    if redis.call('ZSCORE', PREFIX .. 'working', id) then
      fix('working', id, raws[i] and not r)
      code = 3
    end
  elseif packed ~= '' and r[AT] <= now then
    local v = {struct.unpack(VERDICT, packed)}
    if r[TOKEN] == v[V_TOKEN] and still(r, v) then
      code = is_set(r[FLAGS], ACCEPTED) and 1 or 2
      r[LAST] = RAN_OUT
      end_lease(key, id, r, v, '')
      count('expired', 1)
    end
  end
  answers[i] = code
end
return commit(answers)
