-- The packed record of a task: a fixed head, then nine texts whose lengths the head holds. codec.rs has the same layout.
-- Decoded, it is an array: the fields below by number, the texts in place of their lengths.
local HEAD = '>BBBBBBI4I4I2I2I6I6I7c16I6I7I7I7I5I7BBI3I2BI2I2I2B'
local HEAD_BYTES = 107
local VERSION = 1
local STATE, REASON, FLAGS, BAND, LAST, RUN, ATTEMPTS, CRASHES, RETURNS = 2, 3, 4, 5, 6, 7, 8, 9, 10
local CREATED, AT, SEQ, TOKEN, DEADLINE, BYTES_DONE, BYTES_TOTAL, STEPS = 11, 12, 13, 14, 15, 16, 17, 18
local TIMEOUT, COST, TENANT, LOCATION, SPEC, WORKER, SESSION = 19, 20, 21, 22, 23, 24, 25
local UPLOAD, FAILURE, RECEIPT, PARENT = 26, 27, 28, 29

local SCHEDULED, PENDING, WORKING, DELAYED, DONE, DEAD, CANCELLED = 1, 2, 3, 4, 5, 6, 7
local INDEX = {'working:scheduled', false, 'working', 'delay', 'done', 'dead', 'cancelled'}
local ACCEPTED, DIRTY, CANCEL, LATEST = 1, 2, 4, 8
-- How the newest lease ended (LAST): 0 not yet, a kind of report, or by running out.
local OPEN, REPORTED_DONE, REPORTED_FAILED, HANDED_BACK, STOPPED, RAN_OUT = 0, 1, 2, 3, 4, 5
local NO_TOKEN = string.rep('\0', 16)

-- The record in `raw`; false when it is none.
local function decode(raw)
  if #raw < HEAD_BYTES or string.byte(raw, 1) ~= VERSION then return false end
  local r = {struct.unpack(HEAD, raw)}
  local at = HEAD_BYTES + 1
  for i = TENANT, PARENT do
    local length = r[i]
    r[i] = string.sub(raw, at, at + length - 1)
    at = at + length
  end
  if at ~= #raw + 1 or r[STATE] < SCHEDULED or r[STATE] > CANCELLED or r[BAND] > 2 then return false end
  return r
end

local function encode(r)
  local head = struct.pack(HEAD, VERSION, r[STATE], r[REASON], r[FLAGS], r[BAND], r[LAST], r[RUN], r[ATTEMPTS], r[CRASHES],
    r[RETURNS], r[CREATED], r[AT], r[SEQ], r[TOKEN], r[DEADLINE], r[BYTES_DONE], r[BYTES_TOTAL], r[STEPS], r[TIMEOUT],
    r[COST], #r[TENANT], #r[LOCATION], #r[SPEC], #r[WORKER], #r[SESSION], #r[UPLOAD], #r[FAILURE], #r[RECEIPT], #r[PARENT])
  return table.concat({head, r[TENANT], r[LOCATION], r[SPEC], r[WORKER], r[SESSION], r[UPLOAD], r[FAILURE], r[RECEIPT], r[PARENT]})
end

local function has(r, flag)
  return r[FLAGS] % (flag * 2) >= flag
end

local function set(r, flag)
  if not has(r, flag) then r[FLAGS] = r[FLAGS] + flag end
end

local function clear(r, flag)
  if has(r, flag) then r[FLAGS] = r[FLAGS] - flag end
end
