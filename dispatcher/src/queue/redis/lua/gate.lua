#!lua flags=allow-oom
-- Lets one sweeper at a time into a shard, keeps its clock, and says what is due. Decides nothing about tasks.
--
-- KEYS[1] meta of the shard
-- ARGV[1] time in ms in tests, 0 for the server's
-- ARGV[2] least time between two sweeps (ms)
-- ARGV[3] a longer gap than this is an outage (ms)
-- ARGV[4] how long after an outage no lease ends (ms)
-- ARGV[5] how long done tasks stay (ms)
-- ARGV[6] how long cancelled tasks stay (ms)
-- ARGV[7] how long dead tasks stay (ms)
-- ARGV[8] most tasks of each list in one pass, at most 100
-- ARGV[9] most bytes of done and cancelled records: above it the oldest are due, whatever their age
--
-- Returns 1 to sweep or 0 for too soon; 1 in an amnesty; 1 when a list may go on; ms until the next lease end, processing or retry
-- time, negative when none; the server's time (0 in tests) and the shard's (ms); then six lists, each as its length and that many
-- tasks: leases that ran out (task and record in turn), scheduled, delayed, done, cancelled, dead.
--
-- Keeps: after an outage, in which nobody could renew, no lease ends for the time of a lease.
local sweep_every, outage, grace = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local batch = tonumber(ARGV[8])
-- After a failover to a server whose clock is behind, the difference is added from now on, so that time does not stand still; before
-- anything else, or it would never be time to sweep. A little is only what wore off.
local SLOWER_MS, BEHIND_MS = 1000, 2000
if behind > BEHIND_MS then
  off = off + behind
  commit_meta()
end
local state = redis.call('HMGET', PREFIX .. 'sweep', 'swept', 'complete', 'amnesty')
local swept, amnesty = tonumber(state[1]), tonumber(state[3]) or 0
if swept and state[2] == '1' and swept + sweep_every > now then return {0, 0, 0, -1, server, now} end
if not swept or now - swept > outage then amnesty = now + grace end

local out, more = {1, now < amnesty and 1 or 0, 0, -1, server, now}, false

local function due(index, before, with_record)
  local ids = {}
  if before >= 0 then ids = redis.call('ZRANGEBYSCORE', PREFIX .. index, '-inf', before, 'LIMIT', 0, batch) end
  more = more or #ids == batch
  out[#out + 1] = #ids
  for _, id in ipairs(ids) do
    out[#out + 1] = id
    if with_record then out[#out + 1] = redis.call('GET', PREFIX .. 't:' .. id) or '' end
  end
end

local function first(index)
  return tonumber(redis.call('ZRANGE', PREFIX .. index, 0, 0, 'WITHSCORES')[2])
end

local done_before, cancelled_before = now - tonumber(ARGV[5]), now - tonumber(ARGV[6])
if finished > tonumber(ARGV[9]) then
  -- In the order of their ends: the one that begins earlier, up to where the other one begins.
  local done, cancelled = first('done'), first('cancelled')
  more = math.min(done or now + 1, cancelled or now + 1) <= now
  if not done and not cancelled then finished = 0 end
  if done and (not cancelled or done <= cancelled) then
    done_before = math.max(done_before, cancelled or now)
  elseif cancelled then
    cancelled_before = math.max(cancelled_before, done or now)
  end
end

due('working', now < amnesty and -1 or now, true)
due('working:scheduled', now)
due('delay', now)
due('done', done_before)
due('cancelled', cancelled_before)
due('dead', now - tonumber(ARGV[7]))
out[3] = more and 1 or 0
out[4] = until_next(now < amnesty)

redis.call('HSET', PREFIX .. 'sweep', 'swept', now, 'complete', more and 0 or 1, 'amnesty', amnesty)
-- What is added wears off, by less than has passed, so that time goes on: the clock that was ahead may have been the wrong one.
local passed = swept and now - swept <= outage and now - swept or 0
off = math.max(off - math.min(math.floor(passed / 2), SLOWER_MS), 0)
-- Nobody has watched for long: the log is not continued, so nothing is to be read from it.
if logged > 0 and logged <= now then
  logged = 0
  redis.call('UNLINK', PREFIX .. 'events')
end
commit_meta()
return out
