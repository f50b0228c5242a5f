#!lua flags=allow-oom
-- Success: ends leases with a receipt, at work or after they ran out.
--
-- KEYS[1]     meta of the shard
-- KEYS[i+1]   record of item i; at most 250, no task twice
-- ARGV[1]     time in ms in tests, 0 for the server's
-- ARGV[2*i]   token of item i
-- ARGV[2*i+1] receipt of item i
--
-- Returns pending tasks by band, then one integer for each item: 5 done, 10 duplicate, 11 runs again, 12 fenced, 13 superseded,
-- 14 cancelled, 15 gone, -3 its record is damaged.
--
-- Keeps: only the newest lease finishes a task, once; a task that was asked for again during the copy runs again.
-- Where the front has the token, the lengths of texts that a lease has, and its end; what the copy did so far is in between.
local TOKEN_AT, DID_AT, LENGTHS_AT, RECEIPT_AT = 12, 34, 52, 58
local NOTHING_DONE = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
local names, fronts, lengths = {}, {}, {}

-- The tenant of a record; most items of a call share a few.
local function tenant_of(raw)
  local name = sub(raw, HEAD_BYTES + 1, HEAD_BYTES + byte(raw, LINE_AT + 1))
  local t = names[name]
  if not t then t = tenant(name) names[name] = t end
  return t
end

-- A front up to the token: but for the flags the same for all of a call.
local function front_of(flags)
  local front = fronts[flags]
  if not front then
    front = VERSION .. struct.pack('>BBBBI6', DONE, 0, with(without(flags, CANCEL), ACCEPTED), REPORTED_DONE, now)
    fronts[flags] = front
  end
  return front
end

local function length_of(receipt)
  local text = lengths[#receipt]
  if not text then text = struct.pack('>I2', #receipt) lengths[#receipt] = text end
  return text
end

-- The usual case: the newest lease is at work, and nothing has been asked for meanwhile. Token, deadline and the lengths of texts stay.
local function finish(key, raw, token, receipt)
  local state, _, flags, last = byte(raw, 2, 5)
  if state ~= WORKING or sub(raw, TOKEN_AT, TOKEN_AT + 15) ~= token or last ~= OPEN or is_set(flags, DIRTY) then return false end
  local upload_high, upload_low, worker, session, old_high, old_low = byte(raw, LENGTHS_AT + 2, FRONT_BYTES)
  if upload_high + upload_low + old_high + old_low > 0 or not body_end(raw, state, 0, worker, session, 0) then return false end
  local id, t = id_of(key), tenant_of(raw)
  remove(INDEX[WORKING], id)
  add(INDEX[DONE], now, id)
  count_state(t, WORKING, -1)
  local done = front_of(flags) .. sub(raw, TOKEN_AT, DID_AT - 1) .. NOTHING_DONE .. sub(raw, LENGTHS_AT, RECEIPT_AT - 1)
    .. length_of(receipt) .. sub(raw, FRONT_BYTES + 1) .. receipt
  weigh(DONE, #done)
  put_raw(key, done)
  return true
end

-- Any other case: late, repeated, stale, cancelled, asked for again.
local function settle(key, raw, token, receipt)
  local r = decode(raw)
  if not r then return DAMAGED end
  local refused = refuse(r, token, REPORTED_DONE)
  if refused then return refused end
  local id = id_of(key)
  if r[STATE] ~= WORKING then count_move('late', r[STATE]) end
  take_out(r, id)
  r[UPLOAD] = ''
  local again = is_set(r[FLAGS], DIRTY)
  if again then
    run_again(r, id, token .. string.char(REPORTED_DONE))
    count('again', 1)
  else
    r[REASON], r[LAST], r[RECEIPT] = 0, REPORTED_DONE, receipt
    r[BYTES_DONE], r[BYTES_TOTAL], r[STEPS] = 0, 0, 0
    r[FLAGS] = with(without(r[FLAGS], CANCEL), ACCEPTED)
    settle_in(r, id, DONE, now)
  end
  put(key, r)
  return again and RUNS_AGAIN or DONE
end

local raws, answers, done = records(), {}, 0
for i = 1, #KEYS - 1 do
  local key, raw, token, receipt = KEYS[i + 1], raws[i], ARGV[2 * i], ARGV[2 * i + 1]
  local answer
  if not raw then
    answer = GONE
  elseif #raw < HEAD_BYTES then
    answer = DAMAGED
  elseif finish(key, raw, token, receipt) then
    answer = DONE
  else
    answer = settle(key, raw, token, receipt)
  end
  if answer == DONE then done = done + 1 end
  answers[i] = answer
end
if done > 0 then count('done', done) end
return commit(answers)
