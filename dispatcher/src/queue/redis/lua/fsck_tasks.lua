#!lua flags=allow-oom
-- Compares tasks with the indexes, each task at one moment, and puts entries where the records say.
--
-- KEYS[1]       meta of the shard
-- ARGV[1]       time in ms in tests, 0 for the server's
-- ARGV[2]       what to mend: 0 nothing, 1 entries of tasks that have a record, 2 those without a record
-- ARGV[2*i+1]   task of item i; at most 100 items
-- ARGV[2*i+2]   index that item i was seen in, without the shard's prefix; empty to look where its record says
--
-- Returns one integer for each item: 0 right, 1 an entry without a record, 2 an entry where its record does not say, 3 no entry
-- where its record says, 4 an entry there with another score, 5 finished in the future, so that it would never be forgotten.
--
-- Keeps: the record decides and is never written; what has a record is in one index afterwards.
local mend = tonumber(ARGV[2])

-- Where a record says that its task is, and with which score.
local function place_of(r)
  if r[STATE] == PENDING then return 'pending:' .. r[BAND] .. ':' .. r[LOCATION] .. ':' .. r[TENANT], r[SEQ] end
  return INDEX[r[STATE]], r[AT]
end

-- An index that is no index is reported by its key; nothing can be said about its entries.
local function score_in(index, id)
  local score = redis.pcall('ZSCORE', PREFIX .. index, id)
  if type(score) == 'table' then return nil, true end
  return tonumber(score or nil)
end

local function check_entry(r, id, index)
  if r and place_of(r) == index then return 0 end
  if not score_in(index, id) then return 0 end
  if mend == (r and 1 or 2) then redis.call('ZREM', PREFIX .. index, id) end
  return r and 2 or 1
end

local function check_record(r, id)
  local index, wanted = place_of(r)
  local score, unreadable = score_in(index, id)
  if unreadable then return 0 end
  if score == wanted then return r[STATE] >= DONE and wanted > now and 5 or 0 end
  if mend == 1 then redis.call('ZADD', PREFIX .. index, string.format('%.0f', wanted), id) end
  return score and 4 or 3
end

local answers = {}
for i = 1, (#ARGV - 2) / 2 do
  local id, index = ARGV[2 * i + 1], ARGV[2 * i + 2]
  local raw = redis.pcall('GET', PREFIX .. 't:' .. id)
  local r = type(raw) == 'string' and decode(raw)
  if raw and not r then
    -- Reported by its key. Its entry lets somebody find it, whatever index it is in.
    answers[i] = 0
  elseif index ~= '' then
    answers[i] = check_entry(r, id, index)
  else
    answers[i] = r and check_record(r, id) or 0
  end
end
return answers
