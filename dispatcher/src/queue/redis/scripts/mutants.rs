//! Scripts with one fault each, which the tests of the queue must notice: `make mutants-queue` runs them all.
//!
//! A plain table, because two programs read it: the tests of this package, which break the scripts they load when
//! [`SWITCH`] names a mutant, and `examples/queue_mutants.rs`, which runs the tests once for each. Never part of a shipped program.

#[path = "mutants/beside.rs"]
mod beside;

/// The environment variable that names the mutant to load.
pub(crate) const SWITCH: &str = "BACKHAUL_QUEUE_MUTANT";

/// One fault.
#[derive(Debug)]
pub(crate) struct Mutant {
    /// What the broken queue does, in words.
    pub(crate) name: &'static str,
    /// The file in `lua/`.
    pub(crate) file: &'static str,
    /// What stands there, once.
    pub(crate) find: &'static str,
    /// What stands there instead.
    pub(crate) replace: &'static str,
}

const fn mutant(name: &'static str, file: &'static str, find: &'static str, replace: &'static str) -> Mutant {
    Mutant { name, file, find, replace }
}

/// The text of `file` with the fault in it; `None` unless the mutant is of this file and its place is found exactly once.
pub(crate) fn applied(mutant: &Mutant, file: &str, text: &str) -> Option<String> {
    let fits = mutant.file == file && text.matches(mutant.find).count() == 1;
    fits.then(|| text.replacen(mutant.find, mutant.replace, 1))
}

/// Every fault.
pub(crate) fn all() -> impl Iterator<Item = &'static Mutant> {
    MUTANTS.iter().chain(beside::MUTANTS)
}

/// Faults in the moves of tasks and in the audit, by file.
const MUTANTS: &[Mutant] = &[
    mutant(
        "copies an exact version again that was just done",
        "submit.lua",
        "if r[STATE] == DONE and not latest and r[AT] + window > now then return 2 end",
        "",
    ),
    mutant(
        "recognises an exact version for ever",
        "submit.lua",
        "not latest and r[AT] + window > now then",
        "not latest then",
    ),
    mutant(
        "forgets a request that came during the copy",
        "submit.lua",
        "    r[FLAGS] = with(r[FLAGS], DIRTY)\n    put(key, r)\n    return 4",
        "    return 4",
    ),
    mutant(
        "lets a copy that began earlier serve a later request",
        "submit.lua",
        "if latest and r[LAST] == RAN_OUT and not is_set(r[FLAGS], DIRTY) then",
        "if false then",
    ),
    mutant(
        "does not pull a scheduled task forward",
        "submit.lua",
        "if r[STATE] == SCHEDULED and at < r[AT] then",
        "if false then",
    ),
    mutant(
        "has no cap on a shard",
        "submit.lua",
        "if unfinished >= shard_cap then return answer(-1, 0, 0) end",
        "",
    ),
    mutant(
        "has no cap on a tenant",
        "submit.lua",
        "if t.kept + more > tenant_cap then return answer(-2, 0, 0) end",
        "",
    ),
    mutant(
        "gives a new run the number of the old one",
        "submit.lua",
        "run, upload = old[RUN] + 1, old[UPLOAD]",
        "run, upload = old[RUN], old[UPLOAD]",
    ),
    mutant("leaves the old run where it was", "submit.lua", "    take_out(old, id)\n", ""),
    mutant(
        "starts a scheduled task at once",
        "submit.lua",
        "if at > now then\n    state",
        "if false then\n    state",
    ),
    mutant(
        "leases again when a request is repeated",
        "lease.lua",
        "if fresh and request == of_request then",
        "if false then",
    ),
    mutant(
        "answers a request that is older than the newest",
        "lease.lua",
        "if fresh and request < of_request then return answer(5) end",
        "",
    ),
    mutant("has no cap on a tenant's leases", "lease.lua", "if t.leases < cap then", "if true then"),
    mutant("charges no turn", "lease.lua", "c.turn = band_time[band] + 1", "c.turn = band_time[band]"),
    mutant(
        "gives more bytes than asked for",
        "lease.lua",
        "over = not first_free and cost > bytes_left",
        "over = false",
    ),
    mutant(
        "gives the first task only if it fits",
        "lease.lua",
        "over = not first_free and cost",
        "over = cost",
    ),
    mutant(
        "gives several leases one token",
        "lease.lua",
        "sub(ARGV[12], leased * 16 + 1, leased * 16 + 16)",
        "sub(ARGV[12], 1, 16)",
    ),
    mutant(
        "runs a task again for requests that its copy serves",
        "lease.lua",
        "local kept = is_set(flags, LATEST) and LATEST or 0",
        "local kept = flags",
    ),
    mutant("counts no new task", "submit.lua", "if created > 0 then count('created', created) end\n", ""),
    mutant(
        "counts no waiting task against the caps",
        "submit.lua",
        "unfinished, t.kept, created = unfinished + 1, t.kept + 1, created + 1",
        "created = created + 1",
    ),
    mutant(
        "takes one location before the other, whatever came first",
        "lease.lua",
        "(not best or place(waiting) < place(best))",
        "not best",
    ),
    mutant(
        "stays with a tenant while others wait",
        "lease.lua",
        "  elseif #heap > 0 or has_more() then",
        "  elseif has_more() then",
    ),
    mutant("counts no lease of a tenant", "lease.lua", "  t.leases = t.leases + 1\n", ""),
    mutant("leaves a leased task in line", "lease.lua", "  leave_queue(l, waiting.left, id)\n", ""),
    mutant(
        "renews the lease of anybody",
        "renew.lua",
        "if state ~= WORKING or holds ~= token then return LOST, 0 end",
        "if state ~= WORKING then return LOST, 0 end",
    ),
    mutant(
        "takes a heartbeat for progress",
        "renew.lua",
        "if grown or not is_set(flags, ACCEPTED) then deadline",
        "if true then deadline",
    ),
    mutant(
        "lets a lease outlast its processing time",
        "renew.lua",
        "left = math.min(lease, deadline - now)",
        "left = lease",
    ),
    mutant("tells no copy that it is cancelled", "renew.lua", "  if stop then\n", "  if false then\n"),
    mutant("forgets the upload", "renew.lua", "local same_upload = stop or", "local same_upload = true or"),
    mutant("lets a copy count backwards", "renew.lua", "math.max(new_done, done)", "new_done"),
    mutant(
        "lets any lease finish the task",
        "complete.lua",
        "if state ~= WORKING or sub(raw, TOKEN_AT, TOKEN_AT + 15) ~= token or last ~= OPEN",
        "if state ~= WORKING or last ~= OPEN",
    ),
    mutant(
        "swallows a request that came during the copy",
        "complete.lua",
        "or last ~= OPEN or is_set(flags, DIRTY) then return false end",
        "or last ~= OPEN then return false end",
    ),
    mutant(
        "forgets how long the texts of the lease are",
        "complete.lua",
        ".. sub(raw, LENGTHS_AT, RECEIPT_AT - 1)\n",
        ".. '\\0\\0\\0\\0\\0\\0'\n",
    ),
    mutant("counts no task that is done", "complete.lua", "if done > 0 then count('done', done) end\n", ""),
    mutant("leaves a finished task in working", "complete.lua", "  remove(INDEX[WORKING], id)\n", ""),
    mutant(
        "drops the receipt of a late success",
        "complete.lua",
        "r[REASON], r[LAST], r[RECEIPT] = 0, REPORTED_DONE, receipt",
        "r[REASON], r[LAST] = 0, REPORTED_DONE",
    ),
    mutant(
        "counts the failure of a lease that ran out",
        "_ends.lua",
        "    if kind ~= REPORTED_DONE then return FENCED end\n",
        "",
    ),
    mutant(
        "takes any token for the newest",
        "_ends.lua",
        "if r[TOKEN] ~= token or token == NO_TOKEN then",
        "if token == NO_TOKEN then",
    ),
    mutant(
        "counts a report twice",
        "_ends.lua",
        "    return r[LAST] == kind and DUPLICATE or FENCED\n",
        "    return nil\n",
    ),
    mutant(
        "acts on what was read before something changed",
        "_ends.lua",
        "return r[RUN] == v[V_RUN] and",
        "return true or",
    ),
    mutant(
        "keeps the progress of an ended lease",
        "_ends.lua",
        "    r[BYTES_DONE], r[BYTES_TOTAL], r[STEPS] = 0, 0, 0\n",
        "",
    ),
    mutant("does not note that a failure was reported", "fail.lua", "    r[LAST] = v[V_KIND]\n", ""),
    mutant(
        "runs a retried task twice for a request that the retry serves",
        "fail.lua",
        "    r[FLAGS] = without(r[FLAGS], DIRTY)\n",
        "",
    ),
    mutant(
        "ends a lease that was renewed meanwhile",
        "expire.lua",
        "elseif packed ~= '' and r[AT] <= now then",
        "elseif packed ~= '' then",
    ),
    mutant("refuses a late success", "expire.lua", "r[LAST] = RAN_OUT", "r[LAST] = REPORTED_FAILED"),
    mutant(
        "ends the lease of another",
        "expire.lua",
        "if r[TOKEN] == v[V_TOKEN] and still(r, v) then",
        "if true then",
    ),
    mutant("promotes before the time", "promote.lua", "elseif r[AT] <= now then", "else"),
    mutant("lets a promoted task overtake", "promote.lua", "wait(r, id, true)", "wait(r, id, false)"),
    mutant(
        "cancels what is dead",
        "cancel.lua",
        "elseif r and r[STATE] >= DONE then",
        "elseif r and r[STATE] ~= DEAD and r[STATE] >= DONE then",
    ),
    mutant("forgets to stop a copy", "cancel.lua", "    r[FLAGS] = with(r[FLAGS], CANCEL)\n", ""),
    mutant(
        "runs a cancelled copy again",
        "cancel.lua",
        "    r[FLAGS] = without(r[FLAGS], DIRTY)\n    put(key, r)\n  elseif",
        "    put(key, r)\n  elseif",
    ),
    mutant(
        "grants no amnesty",
        "gate.lua",
        "if not swept or now - swept > outage then amnesty = now + grace end",
        "",
    ),
    mutant(
        "sweeps leases in an amnesty",
        "gate.lua",
        "due('working', now < amnesty and -1 or now, true)",
        "due('working', now, true)",
    ),
    mutant("has no bound on a pass", "gate.lua", "'LIMIT', 0, batch)", "'LIMIT', 0, 1000)"),
    mutant("stands still after a failover", "gate.lua", "off = off + behind", ""),
    mutant(
        "forgets a task that runs again",
        "reap.lua",
        "if not r or r[STATE] ~= state then",
        "if not r then",
    ),
    mutant(
        "forgets before the retention is over",
        "reap.lua",
        "elseif r[AT] + retain <= now or state",
        "elseif true or state",
    ),
    mutant("lets time run backwards", "_shard.lua", "now = max(now, clk)", ""),
    mutant(
        "does not count dead tasks for their tenant",
        "_shard.lua",
        "if state <= DELAYED or state == DEAD then t.kept",
        "if state <= DELAYED then t.kept",
    ),
    mutant(
        "never serves a tenant again that was at its cap",
        "_shard.lua",
        "if t.freed and t.parked == 1 then",
        "if false then",
    ),
    mutant(
        "wakes nobody",
        "_shard.lua",
        "        redis.call('SADD', PREFIX .. 'locations', location)\n        announce = true\n",
        "        redis.call('SADD', PREFIX .. 'locations', location)\n",
    ),
    mutant(
        "lets a tenant win by coming back often",
        "_shard.lua",
        "if turn_of(l) > band_time[band] then redis.call('ZADD', rested, l.turn, t.name) end",
        "",
    ),
    mutant(
        "charges a new run for the crashes of the old one",
        "_shard.lua",
        "r[RUN] + 1, 0, 0, 0",
        "r[RUN] + 1, 0, r[CRASHES], 0",
    ),
    mutant(
        "runs a task again for each time it is asked to",
        "requeue.lua",
        "elseif r and r[RUN] ~= tonumber(ARGV[i + 2]) then",
        "elseif false then",
    ),
    mutant(
        "runs again what is not dead",
        "requeue.lua",
        "elseif r and r[STATE] ~= DEAD then",
        "elseif false then",
    ),
    mutant(
        "runs dead tasks again in a full shard",
        "requeue.lua",
        "elseif r and unfinished >= shard_cap then",
        "elseif false then",
    ),
    mutant("leaves a requeued task among the dead", "requeue.lua", "    take_out(r, id)\n", ""),
    mutant(
        "says that all were looked at",
        "stats.lua",
        "whole[3 + i] = counts[3 + i] <= look",
        "whole[3 + i] = true",
    ),
    mutant(
        "counts the age of a task for every tenant",
        "stats.lua",
        "local mine = of[string.sub(raw, HEAD_BYTES + 1, HEAD_BYTES + string.byte(raw, LINE_AT + 1))]",
        "local mine = select(2, next(of))",
    ),
    mutant(
        "tells nobody that changes were lost",
        "events.lua",
        "return {place == '' and 1 or 0, 0, newest[1][1]}",
        "return {1, 0, newest[1][1]}",
    ),
    mutant(
        "tells the change at the place again for ever",
        "events.lua",
        "out[3] = entry[1]",
        "out[3] = place",
    ),
    mutant(
        "keeps more finished tasks than fit",
        "reap.lua",
        "or state ~= DEAD and finished > most_bytes then",
        "then",
    ),
    mutant(
        "drops dead tasks for their bytes",
        "reap.lua",
        "or state ~= DEAD and finished > most_bytes",
        "or finished > most_bytes",
    ),
    mutant(
        "forgets to log a renewal",
        "renew.lua",
        "    touched[#touched + 1] = key\n    touched[#touched + 1] = raw\n",
        "",
    ),
    mutant("logs no change", "_shard.lua", "if logged <= now or written", "if true or written"),
    mutant(
        "mends no missing entry",
        "fsck_tasks.lua",
        "if mend == 1 then redis.call('ZADD'",
        "if false then redis.call('ZADD'",
    ),
    mutant(
        "drops an entry whose record may be on the other node when not asked to",
        "fsck_tasks.lua",
        "if mend == (r and 1 or 2) then",
        "if mend > 0 then",
    ),
    mutant(
        "writes a recount that was overtaken",
        "fsck_counters.lua",
        "if string.sub(meta or '', CLOCK_BYTES + 1) ~= ARGV[3] or sum ~= tonumber(ARGV[4]) then return {0} end",
        "",
    ),
    mutant(
        "puts a tenant at its cap back into the ring",
        "fsck_lines.lua",
        "if not in_ring and not is_away then",
        "if not in_ring then",
    ),
    mutant(
        "leaves a turn for nothing",
        "fsck_lines.lua",
        "  if mend then redis.call('ZREM', turns, t.name) end\n",
        "",
    ),
];
