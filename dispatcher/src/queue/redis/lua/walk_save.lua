#!lua flags=allow-oom
-- Stores a walk and what lies beside it, unless the walk has changed since it was read. Knows nothing of what a walk is but that its
-- record begins with its revision and a blank.
--
-- KEYS[1]   meta of the shard
-- KEYS[2]   record of the walk
-- KEYS[3]   its open tasks
-- KEYS[4]   its failures
-- ARGV[1]   time in ms in tests, 0 for the server's
-- ARGV[2]   revision that there is, '' when there is to be none
-- ARGV[3]   record from now on
-- ARGV[4]   0 while it is not finished, else how long it is kept (ms)
-- ARGV[5]   most walks that are not finished
-- ARGV[6]   most failures that are kept
-- ARGV[7]   how many tasks are open from now on
-- ARGV[8]   how many are not open any more
-- ARGV[i]   those tasks, those other tasks, then failures, from i = 9 on; at most 5,000 in all
--
-- Returns pending tasks by band; what came of it: 1 stored, 0 another revision is there, -1 too many walks; open tasks.
--
-- Keeps: a change is made once, on what it was decided on; a finished walk has no open tasks and is not active.
local FIRST = 9
local record, retain = ARGV[3], tonumber(ARGV[4])
local opened, closed = tonumber(ARGV[7]), tonumber(ARGV[8])
local active, all = PREFIX .. 'walks:active', PREFIX .. 'walks'
local id, old = id_of(KEYS[2]), redis.call('GET', KEYS[2])

local function answer(code)
  return {pending[0], pending[1], pending[2], code, redis.call('ZCARD', KEYS[3])}
end

-- What is forgotten by now is not there, even where the server has not noticed (in tests it never does).
local forget_at = tonumber(redis.call('ZSCORE', all, id) or nil)
if forget_at and forget_at <= now then old = false end
if old == record then return answer(1) end
if (old and string.match(old, '^%d+') or '') ~= ARGV[2] then return answer(0) end
if not old and redis.call('ZCARD', active) >= tonumber(ARGV[5]) then return answer(-1) end

-- What lay beside one that is forgotten is not this one's, even where the server still has it: its clock may be behind the shard's.
if not old then redis.call('UNLINK', KEYS[3], KEYS[4]) end

-- Places in line go on from the last one, so that tasks stay in the order in which they were opened.
local place = 0
local last = redis.call('ZRANGE', KEYS[3], -1, -1, 'WITHSCORES')
if last[2] then place = tonumber(last[2]) end
local list = {}
for i = FIRST, FIRST + opened - 1 do
  place = place + 1
  list[#list + 1] = string.format('%.0f', place)
  list[#list + 1] = ARGV[i]
end
for i = 1, #list, 200 do redis.call('ZADD', KEYS[3], 'NX', unpack(list, i, math.min(i + 199, #list))) end
list = {}
for i = FIRST + opened, FIRST + opened + closed - 1 do list[#list + 1] = ARGV[i] end
list.n = #list
call_with('ZREM', KEYS[3], list)
local room = tonumber(ARGV[6]) - redis.call('LLEN', KEYS[4])
list = {}
for i = FIRST + opened + closed, math.min(#ARGV, FIRST + opened + closed + room - 1) do list[#list + 1] = ARGV[i] end
list.n = #list
call_with('RPUSH', KEYS[4], list)

redis.call('ZREMRANGEBYSCORE', all, '-inf', now)
if retain == 0 then
  redis.call('SET', KEYS[2], record)
  redis.call('ZADD', active, now, id)
  redis.call('ZADD', all, '+inf', id)
else
  redis.call('SET', KEYS[2], record, 'PX', retain)
  redis.call('PEXPIRE', KEYS[4], retain)
  redis.call('UNLINK', KEYS[3])
  redis.call('ZREM', active, id)
  redis.call('ZADD', all, string.format('%.0f', now + retain), id)
end
return answer(1)
