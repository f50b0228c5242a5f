#!lua flags=allow-oom
-- Runs dead tasks again: a new run of the spec that each has, at the end of its tenant's line.
--
-- KEYS[1]   meta of the shard
-- KEYS[i+1] record of item i; at most 250, no task twice
-- ARGV[1]   time in ms in tests, 0 for the server's
-- ARGV[2]   most unfinished tasks of the shard
-- ARGV[i+2] run of item i that died
--
-- Returns pending tasks by band, then three integers for each item: what came of it, the state of the task, its run. What came of
-- it: 1 runs again, 2 it is at another run, 3 that run is not dead, 15 gone, -1 shard full, -3 its record is damaged.
--
-- Keeps: one run is followed by one run, however often and by whomever it is asked for; every older lease is fenced.
local shard_cap = tonumber(ARGV[2])
local raws, answers = records(), {}
for i = 1, #KEYS - 1 do
  local key = KEYS[i + 1]
  local r = raws[i] and decode(raws[i])
  local code = 15
  if raws[i] and not r then
    code = -3
  elseif r and r[RUN] ~= tonumber(ARGV[i + 2]) then
    code = 2
  elseif r and r[STATE] ~= DEAD then
    code = 3
  elseif r and unfinished >= shard_cap then
    code = -1
  elseif r then
    local id = id_of(key)
    take_out(r, id)
    run_again(r, id, '')
    put(key, r)
    count('requeued', 1)
    code = 1
  end
  local n = #answers
  answers[n + 1], answers[n + 2], answers[n + 3] = code, r and r[STATE] or 0, r and r[RUN] or 0
end
return commit(answers)
