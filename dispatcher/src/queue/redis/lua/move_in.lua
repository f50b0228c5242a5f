#!lua flags=allow-oom
-- Takes in tasks of other shards, each as it is: where its record says, at the place in line that it had.
--
-- KEYS[1]   meta of the shard
-- KEYS[i+1] record of item i, here; at most 250, no task twice
-- ARGV[1]   time in ms in tests, 0 for the server's
-- ARGV[2]   how far the furthest of all shards is in time (ms)
-- ARGV[3]   newest place in line of all shards
-- ARGV[i+3] record of item i, as the other shard has it
--
-- Returns pending tasks by band, then for each item: 1 taken in, 2 it is here already, 0 another record is here, -3 its record is damaged.
--
-- Keeps: a record that is here is never written over; a repeat changes nothing; whoever joins a line later stands behind.
now, seq = math.max(now, tonumber(ARGV[2])), math.max(seq, tonumber(ARGV[3]))
local here, answers = records(), {}
for i = 1, #KEYS - 1 do
  local key, raw = KEYS[i + 1], ARGV[i + 3]
  local r = decode(raw)
  if here[i] then
    answers[i] = here[i] == raw and 2 or 0
  elseif not r then
    answers[i] = -3
  else
    local id, state = id_of(key), r[STATE]
    if state == PENDING then wait(r, id, false) else settle_in(r, id, state, r[AT]) end
    weigh(state, #raw)
    put_raw(key, raw)
    count('moved_in:' .. (INDEX[state] or 'pending'), 1)
    answers[i] = 1
  end
end
return commit(answers)
