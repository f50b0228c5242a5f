#!lua flags=allow-oom
-- Accepts leases, and keeps them while their copies make progress.
--
-- KEYS[1]     meta of the shard
-- KEYS[i+1]   record of item i; at most 100, no task twice
-- ARGV[1]     time in ms in tests, 0 for the server's
-- ARGV[2]     how long a lease lasts (ms)
-- ARGV[4*i-1] token of item i
-- ARGV[4*i]   progress of item i: bytes done, bytes in all, steps done; seven bytes each
-- ARGV[4*i+1] multipart upload of item i; empty leaves what is known
-- ARGV[4*i+2] session that holds item i
--
-- Returns pending tasks by band, then two integers for each item: 1 keep, 2 lost, 3 cancel, -3 its record is damaged; and how
-- long the lease lasts (ms).
--
-- Keeps: a lease ends no later than its processing time, which only progress extends.
local lease = tonumber(ARGV[2])
local raws, answers = records(), {}
for i = 1, #KEYS - 1 do
  local key, token, session = KEYS[i + 1], ARGV[4 * i - 1], ARGV[4 * i + 2]
  local r = raws[i] and decode(raws[i])
  local code, left = 2, 0
  if raws[i] and not r then
    code = -3
  elseif r and r[STATE] == WORKING and r[TOKEN] == token then
    if has(r, CANCEL) then
      code = 3
      if r[SESSION] ~= session then
        r[SESSION] = session
        put(key, r)
      end
    else
      local bytes_done, bytes_total, steps = struct.unpack('>I7I7I7', ARGV[4 * i])
      local grown = bytes_done > r[BYTES_DONE] or steps > r[STEPS]
      local deadline = r[DEADLINE]
      if grown or not has(r, ACCEPTED) then deadline = now + r[TIMEOUT] end
      if deadline > now then
        code, left = 1, math.min(lease, deadline - now)
        r[DEADLINE], r[AT], r[SESSION] = deadline, now + left, session
        r[BYTES_DONE], r[STEPS] = math.max(bytes_done, r[BYTES_DONE]), math.max(steps, r[STEPS])
        r[BYTES_TOTAL] = bytes_total
        set(r, ACCEPTED)
        if grown then r[RETURNS] = 0 end
        if ARGV[4 * i + 1] ~= '' then r[UPLOAD] = ARGV[4 * i + 1] end
        add('working', r[AT], id_of(key))
        put(key, r)
      end
    end
  end
  answers[2 * i - 1], answers[2 * i] = code, left
end
local out = commit()
for _, n in ipairs(answers) do out[#out + 1] = n end
return out
