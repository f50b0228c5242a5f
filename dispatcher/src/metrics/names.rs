//! Every metric of the dispatcher: the one list of names. What each means for an operator is in `deploy/docs/metrics.md`, which a
//! test compares with this list.
//!
//! `backhaul_queue_*` is about the queues, which all dispatchers share: each shows the same, so take the maximum. The rest is about the
//! one process.

use backhaul_runtime::metrics::Family;

macro_rules! families {
    ($($name:ident = $kind:ident($text:literal, [$($label:literal),*], $help:literal);)+) => {
        $(pub(super) static $name: Family = Family::$kind($text, $help, &[$($label),*]);)+
        /// All of them.
        pub static FAMILIES: &[&Family] = &[$(&$name),+];
    };
}

families! {
    QUEUE_VISIBLE = gauge("backhaul_queue_visible", [], "1 when the last look at the queues succeeded; without it no other backhaul_queue metric is shown.");
    QUEUE_TASKS = gauge("backhaul_queue_tasks", ["queue"], "Tasks in each queue: pending, working, scheduled, delayed, done, dead, cancelled.");
    QUEUE_OLDEST = gauge("backhaul_queue_oldest_age_seconds", ["queue"], "Time since the oldest unfinished task of a queue was asked for; 0 when it is empty.");
    QUEUE_MOVES = counter("backhaul_queue_moves_total", ["move"], "Moves of tasks since the data was created, by all dispatchers.");
    QUEUE_SWEPT = gauge("backhaul_queue_sweep_age_seconds", [], "Time since the shard was swept that has waited longest.");

    QUEUE_CLOCK_AHEAD = gauge("backhaul_queue_clock_ahead_seconds", [], "How far the queue's time is ahead of the clock of its Redis server: after that clock was ahead, or a server with a slower one took over. Wears off at a third of the time that passes.");

    READY = gauge("backhaul_dispatcher_ready", [], "1 while calls and workers are wanted.");
    CHECK = gauge("backhaul_dispatcher_redis_check", ["state"], "1 for the outcome of the last look at Redis: safe, unsafe, unreachable.");
    CONNECTIONS = gauge("backhaul_dispatcher_connections", [], "Connections of callers and workers that are open.");
    ACCEPTED = counter("backhaul_dispatcher_connections_total", [], "Connections of callers and workers that were accepted.");
    HANDSHAKES_REFUSED = counter("backhaul_dispatcher_handshakes_refused_total", [], "Connections that were closed before their first call because the peer did not prove who it is, did not speak the protocol, or took too long. Whoever only looks whether the port is open is not counted.");
    CALLS = counter("backhaul_dispatcher_calls_total", ["rpc", "code"], "Calls of internal services that were answered, by gRPC status code.");
    CALL_TIME = histogram("backhaul_dispatcher_call_duration_seconds", ["rpc"], "Time to answer calls of internal services.");
    TOKENS = counter("backhaul_dispatcher_token_checks_total", ["outcome"], "Bearer tokens that were looked at: accepted, no_caller (good, and no rule of the issuers file is about its subject), refused, ambiguous (a second one, or a certificate beside it), unavailable (keys or review cannot be had, or not in time).");
    ISSUERS_REFUSED = gauge("backhaul_dispatcher_token_issuers_refused", [], "1 while the token issuers file cannot be used, so that older issuers are in force.");
    ISSUER_KEYS = gauge("backhaul_dispatcher_issuer_keys_age_seconds", ["issuer"], "Time since the keys of a token issuer were read; used for an hour.");
    TLS_FILES = gauge("backhaul_dispatcher_tls_files_current", [], "1 while certificate, key, bundle and revocation lists are used as they are in the files, 0 while new ones cannot be used; not shown in plaintext.");
    CRL_LEFT = gauge("backhaul_dispatcher_crl_remaining_seconds", [], "Time until a revocation list should have been replaced by a newer one, negative when it is overdue; not shown without any.");
    SUBMITS = counter("backhaul_dispatcher_submits_total", ["outcome"], "Requests for a backup that reached the queue, one for each object.");
    LEASES = counter("backhaul_dispatcher_leases_total", [], "Tasks that were leased for workers.");
    RENEWALS = counter("backhaul_dispatcher_renewals_total", ["outcome"], "Leases that workers asked to keep.");
    SETTLEMENTS = counter("backhaul_dispatcher_settlements_total", ["report", "verdict"], "Ends of leases that were reported, by what was reported and what became of it.");
    SWEPT = counter("backhaul_dispatcher_swept_total", ["what"], "Entries that this dispatcher's sweeps moved: expired, unaccepted, promoted, reaped, fixed.");
    AMNESTIES = counter("backhaul_dispatcher_amnesty_sweeps_total", [], "Sweeps that ended no lease because nobody could renew for a while.");
    QUEUE_TIME = histogram("backhaul_dispatcher_queue_duration_seconds", ["operation"], "Time of operations on the queue, round trips to Redis included.");
    QUEUE_ERRORS = counter("backhaul_dispatcher_queue_errors_total", ["operation", "error"], "Operations on the queue, or items of them, that failed.");
    EVENT_ANSWERS = counter("backhaul_dispatcher_event_answers_total", ["form", "answer"], "Bodies with events, posted or read from a broker, by what the sender was told.");
    EVENTS = counter("backhaul_dispatcher_events_total", ["form", "kind"], "Events in bodies that were taken, by what they told: upload, repeated, removal, test, nothing, out_of_scope, unknown (in quarantine).");
    EVENTS_KEPT = gauge("backhaul_events_kept", ["what"], "What origins told that is kept and is no task: quarantined (bodies that were not understood), and removals.");
    BARRIER_TIME = histogram("backhaul_dispatcher_barrier_duration_seconds", [], "Time from sending a batch of submits and cancels to the proof that it is durable.");
    BARRIER_MISSED = counter("backhaul_dispatcher_barrier_failures_total", [], "Batches that were not proved durable in time.");
    CLOCK_JUMPS = counter("backhaul_dispatcher_redis_clock_jumps_total", ["direction"], "Times that the clock of Redis moved more than 10 s differently from this machine's between two sweeps: ahead, back.");
    CLOCK_SKEW = gauge("backhaul_dispatcher_redis_clock_skew_seconds", [], "By how much the queue's time and this machine's differ, either way. Beyond an hour nothing is forgotten for its age.");
    STREAMS = gauge("backhaul_dispatcher_streams", ["state"], "Workers connected here: attached, and draining ones of them.");
    CREDIT_TASKS = gauge("backhaul_dispatcher_credit_tasks", ["use"], "Credit of the connected workers in tasks: free, and held.");
    CREDIT_BYTES = gauge("backhaul_dispatcher_credit_bytes", ["use"], "Credit of the connected workers in bytes: free, and held.");
    ASSIGNMENTS = counter("backhaul_dispatcher_assignments_total", ["step"], "Tasks offered to workers: sent, accepted, refused, and returned without the worker's word.");
    RESULTS = counter("backhaul_dispatcher_results_total", ["answer"], "Results of workers: confirmed, and postponed because the queue could not be asked.");
    PAGES = counter("backhaul_dispatcher_prefix_pages_total", ["outcome"], "Pages of prefix backups that this dispatcher had listed: listed, failed.");
    OBJECTS = counter("backhaul_dispatcher_prefix_objects_total", ["outcome"], "Objects on those pages: submitted, already backed up, skipped by a filter, rejected because no task can be made of them.");
    RULES_REFUSED = gauge("backhaul_dispatcher_rules_refused", [], "1 while the rules file cannot be used, so that older rules are in force.");
    RULE_MISSING = gauge("backhaul_rule_missing_objects", ["rule"], "Objects that had no backup, or an older one, in the newest run of a rule that listed everything.");
    RULE_COMPLETE = gauge("backhaul_rule_complete_timestamp_seconds", ["rule"], "When that run ended, in seconds since the epoch.");
    RULE_BEHIND = gauge("backhaul_rule_behind_seconds", ["rule"], "Time since the first time of the rule's schedule that no complete run is as new as; 0 when there is none.");
    RULE_RUNNING = gauge("backhaul_rule_running", ["rule"], "1 while a run of the rule goes on.");
    AUDIT_ENTRIES = counter("backhaul_dispatcher_audit_entries_total", ["outcome"], "Entries for the audit log: written, and lost because it could not be written or not fast enough.");
    AUDIT_LINE = gauge("backhaul_dispatcher_audit_line", [], "Number of the last line of the audit log; 0 without one.");
    AUDIT_FAILING = gauge("backhaul_dispatcher_audit_failing", [], "1 while the audit log cannot be written.");
    IGNORED = counter("backhaul_dispatcher_ignored_messages_total", [], "Messages and entries of workers that meant nothing here.");
}
