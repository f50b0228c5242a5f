#!lua flags=allow-oom
-- Cancels waiting tasks, and marks running ones so that their copies are stopped. Withdraws every request made before.
--
-- KEYS[1]   meta of the shard
-- KEYS[i+1] record of item i; at most 250, no task twice
-- ARGV[1]   time in ms in tests, 0 for the server's
--
-- Returns pending tasks by band, then for each item: what came of it, token, session. What came of it: 7 cancelled, 3 the copy has
-- to be stopped (token and session say which), 5 done before, 6 dead before, 15 gone, -3 its record is damaged.
--
-- Keeps: a finished task stays what it is; a repeat changes nothing.
local raws, answers = records(), {}
for i = 1, #KEYS - 1 do
  local key = KEYS[i + 1]
  local r = raws[i] and decode(raws[i])
  local code, token, session = 15, '', ''
  if raws[i] and not r then
    code = -3
  elseif r and r[STATE] >= DONE then
    code = r[STATE]
  elseif r and r[STATE] == WORKING then
    code, token, session = WORKING, r[TOKEN], r[SESSION]
    r[FLAGS] = with(r[FLAGS], CANCEL)
    r[FLAGS] = without(r[FLAGS], DIRTY)
    put(key, r)
  elseif r then
    local id = id_of(key)
    take_out(r, id)
    r[REASON] = 8
    r[FLAGS] = without(r[FLAGS], DIRTY)
    settle_in(r, id, CANCELLED, now)
    put(key, r)
    count_move('cancelled', r.was)
    code = CANCELLED
  end
  answers[#answers + 1] = code
  answers[#answers + 1] = token
  answers[#answers + 1] = session
end
return commit(answers)
