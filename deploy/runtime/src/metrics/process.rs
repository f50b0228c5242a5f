//! What every program tells about itself: its build, its memory, its time. Read from the kernel when somebody asks.
//!
//! Names are those that Prometheus' own client libraries use, so that common dashboards work.

use std::fs;

use super::{Family, Page};
use crate::build;

static BUILD: Family = Family::gauge(
    "backhaul_build_info",
    "1, with the version and the commit that the program was built from.",
    &["version", "commit"],
);
static CPU: Family =
    Family::counter("process_cpu_seconds_total", "Processor time used, in user and system mode.", &[]);
static MEMORY: Family = Family::gauge("process_resident_memory_bytes", "Memory in use.", &[]);
static FILES: Family = Family::gauge("process_open_fds", "Open files and sockets.", &[]);
static THREADS: Family = Family::gauge("process_threads", "Threads.", &[]);

/// The metrics that every program has.
pub static FAMILIES: [&Family; 5] = [&BUILD, &CPU, &MEMORY, &FILES, &THREADS];

/// Ticks a second in `/proc`: the same on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Writes them. On systems without `/proc`, only the build.
pub fn write(page: &mut Page) {
    page.family(&BUILD).value(&[build::VERSION, build::COMMIT], 1);
    let mut gauge = |family, value: Option<f64>| {
        let mut samples = page.family(family);
        if let Some(value) = value {
            samples.value(&[], value);
        }
    };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    gauge(&CPU, fs::read_to_string("/proc/self/stat").ok().and_then(|stat| cpu_seconds(&stat)));
    gauge(&MEMORY, field(&status, "VmRSS:").map(|kilobytes| kilobytes * 1024.0));
    #[expect(clippy::cast_precision_loss, reason = "no process has 2^53 files open")]
    gauge(&FILES, fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as f64));
    gauge(&THREADS, field(&status, "Threads:"));
}

/// Processor time of `/proc/self/stat`, whose second field may hold anything between parentheses.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut after_name = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (after_name.next()?.parse().ok()?, after_name.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

fn field(status: &str, name: &str) -> Option<f64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_full_of_spaces_and_parentheses_does_not_move_the_fields() {
        let stat = "7 (a ) (b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("7 (a"), None);
    }

    #[test]
    fn the_running_process_tells_its_build_and_its_memory() {
        let mut page = Page::default();
        write(&mut page);
        let text = page.into_text();
        assert!(text.contains(&format!("backhaul_build_info{{version=\"{}\"", build::VERSION)), "{text}");
        for family in FAMILIES {
            assert!(text.contains(&format!("# TYPE {} ", family.name)), "{}", family.name);
        }
        if cfg!(target_os = "linux") {
            let memory = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
            assert!(memory.is_some_and(|bytes| bytes.parse::<f64>().is_ok_and(|b| b > 1e6)), "{text}");
        }
    }
}
