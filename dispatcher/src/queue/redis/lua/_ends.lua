-- The end of a lease: who may still report, and where a verdict of policy.rs takes the task.
local DUPLICATE, RUNS_AGAIN, FENCED, SUPERSEDED, WAS_CANCELLED, GONE = 10, 11, 12, 13, 14, 15
local DAMAGED, RACED = -3, -4

-- What the queue decided on, and its verdict: a record as ends.rs packs it.
local VERDICT = '>c16I4I4I2I2BBBI4I2I2I6BBB'
local V_TOKEN, V_RUN, V_ATTEMPTS, V_CRASHES, V_RETURNS, V_FLAGS = 1, 2, 3, 4, 5, 6
local V_STATE, V_REASON, V_NEW_ATTEMPTS, V_NEW_CRASHES, V_NEW_RETURNS, V_DELAY = 7, 8, 9, 10, 11, 12
local V_RUNS_AGAIN, V_KIND, V_UPLOAD = 13, 14, 15

-- Why a report of this kind with this token changes nothing; nil when it counts.
local function refuse(r, token, kind)
  if #r[PARENT] == 17 and string.sub(r[PARENT], 1, 16) == token then
    return string.byte(r[PARENT], 17) == kind and RUNS_AGAIN or FENCED
  end
  if r[TOKEN] ~= token or token == NO_TOKEN then
    return r[STATE] == DONE and SUPERSEDED or r[STATE] == CANCELLED and WAS_CANCELLED or FENCED
  end
  if r[LAST] == RAN_OUT then
    if r[STATE] == CANCELLED then return WAS_CANCELLED end
    if kind ~= REPORTED_DONE then return FENCED end
  elseif r[LAST] ~= OPEN then
    return r[LAST] == kind and DUPLICATE or FENCED
  end
  return nil
end

-- True when the verdict was made on this very record.
local function still(r, v)
  return r[RUN] == v[V_RUN] and r[ATTEMPTS] == v[V_ATTEMPTS] and r[CRASHES] == v[V_CRASHES] and r[RETURNS] == v[V_RETURNS]
    and r[FLAGS] % LATEST == v[V_FLAGS]
end

-- Moves a task whose lease has ended to where the verdict says, and stores it. `parent` is the report that ended it, if one did.
local function end_lease(key, id, r, v, parent)
  take_out(r, id)
  if v[V_RUNS_AGAIN] == 1 then
    run_again(r, id, parent)
  else
    r[REASON] = v[V_REASON]
    r[ATTEMPTS], r[CRASHES], r[RETURNS] = v[V_NEW_ATTEMPTS], v[V_NEW_CRASHES], v[V_NEW_RETURNS]
    r[BYTES_DONE], r[BYTES_TOTAL], r[STEPS] = 0, 0, 0
    r[FLAGS] = without(r[FLAGS], CANCEL)
    if v[V_STATE] == PENDING then
      wait(r, id, false)
    else
      settle_in(r, id, v[V_STATE], v[V_STATE] == DELAYED and now + v[V_DELAY] or now)
      count('ended:' .. INDEX[v[V_STATE]], 1)
    end
  end
  put(key, r)
end
