-- The packed record of a task: a fixed head, then nine texts whose lengths the head holds. codec.rs has the same layout.
--
-- The head begins with its version and the front (FRONT of it), which the most frequent moves (lease, renew, complete) rewrite without looking at
-- the rest: making a long string costs a script more than anything else. All other moves decode the record into an array, with
-- the fields below by number and the texts in place of their lengths, and encode it again.
local FRONT = '>BBBBI6c16I6I6I6I6I2I2BBI2'
local LINE_AT, HEAD_BYTES, FRONT_BYTES = 96, 98, 59
local HEAD = '>BBBBI6c16I6I6I6I6I2I2BBI2I4I2I2I6I6I4I6I3I2BBBB'
local VERSION = '\2'
local STATE, REASON, FLAGS, LAST, AT, TOKEN, DEADLINE, BYTES_DONE, BYTES_TOTAL, STEPS, RETURNS = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
local UPLOAD, WORKER, SESSION, RECEIPT = 12, 13, 14, 15
local RUN, ATTEMPTS, CRASHES, CREATED, SEQ, TIMEOUT, COST = 16, 17, 18, 19, 20, 21, 22
local SPEC, FAILURE, PARENT, BAND, TENANT, LOCATION = 23, 24, 25, 26, 27, 28
-- The texts in the order in which they follow the head.
local TEXTS = {TENANT, LOCATION, SPEC, PARENT, FAILURE, UPLOAD, WORKER, SESSION, RECEIPT}

local SCHEDULED, PENDING, WORKING, DELAYED, DONE, DEAD, CANCELLED = 1, 2, 3, 4, 5, 6, 7
local INDEX = {'working:scheduled', false, 'working', 'delay', 'done', 'dead', 'cancelled'}
local ACCEPTED, DIRTY, CANCEL, LATEST = 1, 2, 4, 8
-- How the newest lease ended (LAST): 0 not yet, a kind of report, or by running out.
local OPEN, REPORTED_DONE, REPORTED_FAILED, HANDED_BACK, STOPPED, RAN_OUT = 0, 1, 2, 3, 4, 5
local sub, byte, max = string.sub, string.byte, math.max
local NO_TOKEN = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'

-- Where the texts end that come before worker, session and receipt; false when `raw` is no record. The lengths are as in the front.
local function body_end(raw, state, upload, worker, session, receipt)
  if #raw < HEAD_BYTES or sub(raw, 1, 1) ~= VERSION or state < SCHEDULED or state > CANCELLED then return false end
  local spec_high, spec, spec_low, failure, failure_low, parent, band, tenant, location = byte(raw, LINE_AT - 6, HEAD_BYTES)
  local at = HEAD_BYTES + tenant + location + spec_high * 65536 + spec * 256 + spec_low + parent + failure * 256 + failure_low
    + upload
  if band > 2 or at + worker + session + receipt ~= #raw then return false end
  return at
end

-- The record in `raw`, with the state and the size it had; false when it is none.
local function decode(raw)
  if #raw < HEAD_BYTES then return false end
  local r = {struct.unpack(HEAD, raw, 2)}
  if not body_end(raw, r[STATE], r[UPLOAD], r[WORKER], r[SESSION], r[RECEIPT]) then return false end
  local at = HEAD_BYTES + 1
  for _, field in ipairs(TEXTS) do
    local length = r[field]
    r[field] = string.sub(raw, at, at + length - 1)
    at = at + length
  end
  r.was, r.bytes = r[STATE], #raw
  return r
end

local function encode(r)
  local head = struct.pack(HEAD, r[STATE], r[REASON], r[FLAGS], r[LAST], r[AT], r[TOKEN], r[DEADLINE], r[BYTES_DONE],
    r[BYTES_TOTAL], r[STEPS], r[RETURNS], #r[UPLOAD], #r[WORKER], #r[SESSION], #r[RECEIPT], r[RUN], r[ATTEMPTS], r[CRASHES],
    r[CREATED], r[SEQ], r[TIMEOUT], r[COST], #r[SPEC], #r[FAILURE], #r[PARENT], r[BAND], #r[TENANT], #r[LOCATION])
  return table.concat({VERSION, head, r[TENANT], r[LOCATION], r[SPEC], r[PARENT], r[FAILURE], r[UPLOAD], r[WORKER], r[SESSION],
    r[RECEIPT]})
end

local function is_set(flags, flag)
  return flags % (flag * 2) >= flag
end

local function with(flags, flag)
  return is_set(flags, flag) and flags or flags + flag
end

local function without(flags, flag)
  return is_set(flags, flag) and flags - flag or flags
end
