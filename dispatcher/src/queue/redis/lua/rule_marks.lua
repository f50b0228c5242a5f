-- Shows what is kept of rules. Not about tasks.
--
-- KEYS[1] records by rule
--
-- Returns the time in ms, then for each rule its name and its record.
local time = redis.call('TIME')
local out = {time[1] * 1000 + math.floor(time[2] / 1000)}
for _, value in ipairs(redis.call('HGETALL', KEYS[1])) do out[#out + 1] = value end
return out
