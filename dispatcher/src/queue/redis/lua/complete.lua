#!lua flags=allow-oom
-- Success: ends leases with a receipt, at work or after they ran out.
--
-- KEYS[1]     meta of the shard
-- KEYS[i+1]   record of item i; at most 100, no task twice
-- ARGV[1]     time in ms in tests, 0 for the server's
-- ARGV[2*i]   token of item i
-- ARGV[2*i+1] receipt of item i
--
-- Returns pending tasks by band, then one integer for each item: 5 done, 10 duplicate, 11 runs again, 12 fenced, 13 superseded,
-- 14 cancelled, 15 gone, -3 its record is damaged.
--
-- Keeps: only the newest lease finishes a task, once; a task that was asked for again during the copy runs again.
local raws, answers = records(), {}
for i = 1, #KEYS - 1 do
  local key, token = KEYS[i + 1], ARGV[2 * i]
  local r = raws[i] and decode(raws[i])
  local code = r and refuse(r, token, REPORTED_DONE)
  if not raws[i] then
    code = GONE
  elseif not r then
    code = DAMAGED
  elseif not code then
    local id = id_of(key)
    take_out(r, id)
    r[UPLOAD] = ''
    if has(r, DIRTY) then
      run_again(r, id, token .. string.char(REPORTED_DONE))
      code = RUNS_AGAIN
    else
      r[REASON], r[LAST], r[RECEIPT] = 0, REPORTED_DONE, ARGV[2 * i + 1]
      r[BYTES_DONE], r[BYTES_TOTAL], r[STEPS] = 0, 0, 0
      clear(r, CANCEL)
      set(r, ACCEPTED)
      settle_in(r, id, DONE, now)
      count('done', 1)
      code = DONE
    end
    put(key, r)
  end
  answers[i] = code
end
local out = commit()
for _, code in ipairs(answers) do out[#out + 1] = code end
return out
