#!lua flags=allow-oom
-- Accepts leases, and keeps them while their copies make progress.
--
-- KEYS[1]     meta of the shard
-- KEYS[i+1]   record of item i; at most 250, no task twice
-- ARGV[1]     time in ms in tests, 0 for the server's
-- ARGV[2]     how long a lease lasts (ms)
-- ARGV[4*i-1] token of item i
-- ARGV[4*i]   progress of item i: bytes done, bytes in all, steps done; six bytes each
-- ARGV[4*i+1] multipart upload of item i; empty leaves what is known
-- ARGV[4*i+2] session that holds item i
--
-- Returns pending tasks by band, then two integers for each item: 1 keep, 2 lost, 3 cancel, -3 its record is damaged; and how
-- long the lease lasts (ms).
--
-- Keeps: a lease ends no later than its processing time, which only progress extends.
local KEEP, LOST, STOP, DAMAGED, TIMEOUT_AT = 1, 2, 3, -3, 80
local lease = tonumber(ARGV[2])
local fronts = {}

local function renew(key, raw, token, progress, upload_id, session)
  if #raw < HEAD_BYTES then return DAMAGED, 0 end
  local state, reason, flags, last, at, holds, deadline, done, total, steps, returns, upload, worker, length, receipt =
    struct.unpack(FRONT, raw, 2)
  local body = body_end(raw, state, upload, worker, length, receipt)
  if not body then return DAMAGED, 0 end
  if state ~= WORKING or holds ~= token then return LOST, 0 end
  local code, left, stop = KEEP, 0, is_set(flags, CANCEL)
  if stop then
    code = STOP
  else
    local new_done, new_total, new_steps = struct.unpack('>I6I6I6', progress)
    local grown = new_done > done or new_steps > steps
    if grown or not is_set(flags, ACCEPTED) then deadline = now + struct.unpack('>I4', raw, TIMEOUT_AT) end
    if deadline <= now then return LOST, 0 end
    left = math.min(lease, deadline - now)
    at, done, total, steps = now + left, math.max(new_done, done), new_total, math.max(new_steps, steps)
    flags = with(flags, ACCEPTED)
    if grown then returns = 0 end
    add(INDEX[WORKING], at, id_of(key))
  end
  local same_upload = stop or upload_id == '' or upload_id == string.sub(raw, body - upload + 1, body)
  local same_session = session == string.sub(raw, body + worker + 1, body + worker + length)
  if not same_upload then
    raw = string.sub(raw, 1, body - upload) .. upload_id .. string.sub(raw, body + 1)
    body, upload = body - upload + #upload_id, #upload_id
  end
  if not same_session then
    raw = string.sub(raw, 1, body + worker) .. session .. string.sub(raw, body + worker + length + 1)
    length = #session
  end
  local front = struct.pack(FRONT, state, reason, flags, last, at, token, deadline, done, total, steps, returns, upload, worker,
    length, receipt)
  if same_upload and same_session then
    fronts[#fronts + 1] = {key, front}
    touched[#touched + 1] = key
    touched[#touched + 1] = raw
  else
    put_raw(key, VERSION .. front .. string.sub(raw, FRONT_BYTES + 1))
  end
  return code, left
end

local raws, answers = records(), {}
for i = 1, #KEYS - 1 do
  local code, left = LOST, 0
  if raws[i] then
    code, left = renew(KEYS[i + 1], raws[i], ARGV[4 * i - 1], ARGV[4 * i], ARGV[4 * i + 1], ARGV[4 * i + 2])
  end
  answers[2 * i - 1], answers[2 * i] = code, left
end
local out = commit(answers)
for _, f in ipairs(fronts) do redis.call('SETRANGE', f[1], 1, f[2]) end
return out
