#!lua flags=allow-oom
-- Ends leases at work without success: failed, handed back, or stopped because of a cancel. The verdict is the caller's, made on
-- the record as it was read; it counts only if nothing that it was made on has changed.
--
-- KEYS[1]     meta of the shard
-- KEYS[i+1]   record of item i; at most 250, no task twice
-- ARGV[1]     time in ms in tests, 0 for the server's
-- ARGV[3*i-1] verdict on item i, packed
-- ARGV[3*i]   failure of item i, encoded; empty leaves what is known
-- ARGV[3*i+1] multipart upload of item i, when the verdict says that it changes
--
-- Returns pending tasks by band, then one integer for each item: 2 pending, 4 delayed, 6 dead, 7 cancelled now; 10 duplicate,
-- 11 runs again, 12 fenced, 13 superseded, 14 cancelled before, 15 gone, -3 its record is damaged, -4 it has changed: decide again.
--
-- Keeps: a stale token changes nothing; counters change only as decided.
local raws, answers = records(), {}
for i = 1, #KEYS - 1 do
  local key, v = KEYS[i + 1], {struct.unpack(VERDICT, ARGV[3 * i - 1])}
  local r = raws[i] and decode(raws[i])
  local code = r and refuse(r, v[V_TOKEN], v[V_KIND])
  if not raws[i] then
    code = GONE
  elseif not r then
    code = DAMAGED
  elseif not code and not still(r, v) then
    code = RACED
  elseif not code then
    if ARGV[3 * i] ~= '' then r[FAILURE] = ARGV[3 * i] end
    if v[V_UPLOAD] == 1 then r[UPLOAD] = ARGV[3 * i + 1] end
    r[LAST] = v[V_KIND]
    r[FLAGS] = with(r[FLAGS], ACCEPTED)
    -- Whatever follows begins after every request made so far.
    r[FLAGS] = without(r[FLAGS], DIRTY)
    end_lease(key, id_of(key), r, v, r[TOKEN] .. string.char(v[V_KIND]))
    code = v[V_RUNS_AGAIN] == 1 and RUNS_AGAIN or v[V_STATE]
    count('failed', 1)
  end
  answers[i] = code
end
return commit(answers)
