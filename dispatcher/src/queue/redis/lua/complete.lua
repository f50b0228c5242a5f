#!lua flags=allow-oom
-- Success: ends leases with a receipt, at work or after they ran out.
--
-- KEYS[1]     meta of the shard
-- KEYS[i+1]   record of item i; at most 100, no task twice
-- ARGV[1]     time in ms in tests, 0 for the server's
-- ARGV[2*i]   token of item i
-- ARGV[2*i+1] receipt of item i
--
-- Returns pending tasks by band, then one integer for each item: 5 done, 10 duplicate, 11 runs again, 12 fenced, 13 superseded,
-- 14 cancelled, 15 gone, -3 its record is damaged.
--
-- Keeps: only the newest lease finishes a task, once; a task that was asked for again during the copy runs again.
local names = {}

-- The tenant of a record; most items of a call share a few.
local function tenant_of(raw)
  local name = string.sub(raw, HEAD_BYTES + 1, HEAD_BYTES + string.byte(raw, LINE_AT + 1))
  local t = names[name]
  if not t then t = tenant(name) names[name] = t end
  return t
end

-- The usual case: the newest lease is at work, and nothing has been asked for meanwhile.
local function finish(key, raw, token, receipt)
  local state, _, flags, last, _, holds, deadline, _, _, _, returns, upload, worker, session, old = struct.unpack(FRONT, raw, 2)
  if state ~= WORKING or holds ~= token or last ~= OPEN or is_set(flags, DIRTY) or upload + old > 0 then return false end
  if not body_end(raw, state, upload, worker, session, old) then return false end
  local id, t = id_of(key), tenant_of(raw)
  remove(INDEX[WORKING], id)
  add(INDEX[DONE], now, id)
  count_state(t, WORKING, -1)
  count_state(t, DONE, 1)
  local front = struct.pack(FRONT, DONE, 0, with(without(flags, CANCEL), ACCEPTED), REPORTED_DONE, now, token, deadline, 0, 0, 0,
    returns, 0, worker, session, #receipt)
  local done = VERSION .. front .. string.sub(raw, FRONT_BYTES + 1) .. receipt
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

local raws, answers = records(), {}
for i = 1, #KEYS - 1 do
  local key, raw, token, receipt = KEYS[i + 1], raws[i], ARGV[2 * i], ARGV[2 * i + 1]
  if not raw then
    answers[i] = GONE
  elseif #raw < HEAD_BYTES then
    answers[i] = DAMAGED
  elseif finish(key, raw, token, receipt) then
    answers[i] = DONE
  else
    answers[i] = settle(key, raw, token, receipt)
  end
  if answers[i] == DONE then count('done', 1) end
end
local out = commit()
for i, code in ipairs(answers) do out[i + 3] = code end
return out
