#!lua flags=allow-oom
-- Lets tasks go that another shard has taken in.
--
-- KEYS[1]   meta of the shard
-- KEYS[i+1] record of item i, here; at most 250, no task twice
-- ARGV[1]   time in ms in tests, 0 for the server's
-- ARGV[i+1] record of item i, as the other shard has it
--
-- Returns pending tasks by band, then for each item: 1 gone, 2 it was gone before, 0 another record is here.
--
-- Keeps: only what the other shard has is deleted.
local here, answers = records(), {}
for i = 1, #KEYS - 1 do
  local key = KEYS[i + 1]
  local r = here[i] and here[i] == ARGV[i + 1] and decode(here[i])
  if not here[i] then
    answers[i] = 2
  elseif not r then
    answers[i] = 0
  else
    take_out(r, id_of(key))
    weigh(r.was, -r.bytes)
    dels[#dels + 1] = key
    count('moved_out:' .. (INDEX[r.was] or 'pending'), 1)
    answers[i] = 1
  end
end
return commit(answers)
