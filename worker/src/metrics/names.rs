//! Every metric of the worker: the one list of names. What each means for an operator is in `deploy/docs/metrics.md`, which a test
//! compares with this list.
//!
//! A `location` is the name of a configured location. Tenants, buckets and keys are nobody's label.

use backhaul_runtime::metrics::Family;

macro_rules! families {
    ($($name:ident = $kind:ident($text:literal, [$($label:literal),*], $help:literal);)+) => {
        $(pub(super) static $name: Family = Family::$kind($text, $help, &[$($label),*]);)+
        /// All of them.
        pub static FAMILIES: &[&Family] = &[$(&$name),+];
    };
}

families! {
    READY = gauge("backhaul_worker_ready", [], "1 while a dispatcher has welcomed this worker and it takes tasks.");
    WELCOMES = counter("backhaul_worker_welcomes_total", [], "Streams on which a dispatcher welcomed this worker.");
    CREDIT_TASKS = gauge("backhaul_worker_credit_tasks", [], "Most tasks held at a time.");
    CREDIT_BYTES = gauge("backhaul_worker_credit_bytes", [], "Most bytes of objects held at a time.");
    LEASES = gauge("backhaul_worker_leases", [], "Leases held.");
    UNCONFIRMED = gauge("backhaul_worker_unconfirmed_results", [], "Results that no dispatcher has confirmed yet.");
    LOST = counter("backhaul_worker_leases_lost_total", [], "Leases that were over before their copy: the copies were stopped.");
    IGNORED = counter("backhaul_worker_ignored_messages_total", [], "Answers of dispatchers that meant nothing here.");
    COPYING = gauge("backhaul_worker_copies", [], "Copies that run.");
    COPIES = counter("backhaul_worker_copies_total", ["location", "outcome"], "Copies that ended: done, present (an equal one was there), or the code of the failure.");
    COPY_TIME = histogram("backhaul_worker_copy_duration_seconds", ["location"], "Time of copies that succeeded, from start to proof.");
    COPIED = counter("backhaul_worker_copied_bytes_total", ["location"], "Bytes of objects whose copy succeeded.");
    MEMORY = gauge("backhaul_worker_memory_high_water_bytes", [], "Most bytes of objects that were in memory at one time.");
    REQUEST_TIME = histogram("backhaul_worker_request_duration_seconds", ["location", "operation"], "Time until a store answered a request.");
    REQUEST_ERRORS = counter("backhaul_worker_request_errors_total", ["location", "error"], "Requests that a store did not answer with success, by what the answer means.");
    RETRIES = counter("backhaul_worker_request_retries_total", ["location"], "Requests that were sent again inside a copy.");
    READ_TIME = histogram("backhaul_worker_read_duration_seconds", ["location"], "Time to read a part or a small object to its last byte.");
    READ = counter("backhaul_worker_read_bytes_total", ["location"], "Bytes that were read from a store.");
    WRITTEN = counter("backhaul_worker_written_bytes_total", ["location"], "Bytes that a store has taken.");
    ALLOWED = gauge("backhaul_worker_requests_allowed", ["location"], "Requests at a time that the limiter allows; fewer while the store asks for less load.");
    IN_FLIGHT = gauge("backhaul_worker_requests_in_flight", ["location"], "Requests under way.");
    STORE = gauge("backhaul_worker_store_state", ["location", "state"], "1 for how the location's store stands: answers, away (it failed ten times in a row) or rests (it asked to be left alone). Tasks that need one that is away or rests are not taken.");
}
