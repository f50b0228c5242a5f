//! How long the loss of a worker or a dispatcher is felt, by kill and in order, and what it repeats.

use std::{collections::HashMap, time::Duration};

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    WORKERS,
    crew::Crew,
    figures::{Report, Times},
    servers::Servers,
};

/// Tasks of a run under load.
const TASKS: usize = 6_000;
/// How long a copy takes under load.
const TAKES: Duration = Duration::from_millis(200);

/// From the kill of a worker that holds tasks to their start at another: what is left of the lease, and the wait before a retry.
pub(crate) async fn of_a_worker(servers: &Servers, report: &mut Report) -> anyhow::Result<()> {
    let mut crew = Crew::hire(servers.urls(), 1, Duration::from_secs(3_600)).await?;
    servers.submit(0, "killed", 10).await?;
    crew.until("ten copies are under way", |seen| seen.begun.len() == 10).await?;
    crew.vanish();
    let killed = Instant::now();
    crew.set_takes(Duration::from_millis(10));
    crew.join()?;
    crew.until("all have been begun again", |seen| seen.begun.values().all(|b| b.len() > 1)).await?;
    let waits = {
        let seen = crew.seen();
        let second = seen.begun.values().filter_map(|begun| begun.get(1));
        Times::new(second.map(|(_, at)| *at - killed).collect())
    };
    report.add(
        "worker_killed",
        &format!("a worker is killed (lease 30 s): start of its tasks at another: {}", waits.show()),
        waits.json(),
    )?;
    crew.until("all is done", |seen| seen.finished == 10).await?;
    crew.leave().await
}

/// From the kill of a dispatcher to the next stream of each of its workers, and to the next copy of every worker.
pub(crate) async fn of_a_dispatcher(servers: &mut Servers, report: &mut Report) -> anyhow::Result<()> {
    let crew = busy(servers, "steady").await?;
    let before = crew.welcomes();
    servers.kill(0)?;
    let killed = Instant::now();
    let (back, ()) = tokio::try_join!(
        async { Ok(Times::new(reconnects(&crew, &before, killed).await)) },
        crew.until("everything is done", |seen| seen.finished >= TASKS)
    )?;
    let (waits, repeated) = {
        let seen = crew.seen();
        (Times::new(next_copies(seen.begun.values().flatten(), killed)), seen.repeated())
    };
    report.add(
        "dispatcher_killed_reconnect",
        &format!("a dispatcher is killed: next stream of each of its workers: {}", back.show()),
        back.json(),
    )?;
    report.add(
        "dispatcher_killed_next_copy",
        &format!("  next copy of each of {WORKERS} workers: {}; copies repeated: {repeated}", waits.show()),
        json!({ "next_copy": waits.json(), "repeated": repeated }),
    )?;
    servers.launch(0).await?;
    crew.leave().await
}

/// Both dispatchers and all workers restarted in order while they work.
pub(crate) async fn in_order(servers: &mut Servers, report: &mut Report) -> anyhow::Result<()> {
    let mut crew = busy(servers, "rolling").await?;
    let (mut ends, mut waits) = (Vec::new(), Vec::new());
    for number in [0, 1] {
        let begin = Instant::now();
        servers.stop(number).await?;
        ends.push(begin.elapsed());
        let gaps = longest_pauses(crew.seen().begun.values().flatten(), crew.len(), begin);
        waits.extend(gaps);
        servers.launch(number).await?;
    }
    for number in 0..crew.len() {
        crew.restart(number).await?;
    }
    crew.until("everything is done", |seen| seen.finished >= TASKS).await?;
    let repeated = crew.seen().repeated();
    let (ends, waits) = (Times::new(ends), Times::new(waits));
    report.add(
        "restarts_in_order",
        &format!(
            "both dispatchers and {WORKERS} workers restarted in order under load: copies repeated: {repeated}; \
             a dispatcher ends in {}",
            ends.show()
        ),
        json!({ "repeated": repeated, "dispatcher_ends": ends.json() }),
    )?;
    report.add(
        "dispatcher_stopped_pause",
        &format!("  longest pause between two copies of each worker meanwhile: {}", waits.show()),
        waits.json(),
    )?;
    crew.leave().await
}

/// Workers that have enough to do.
async fn busy(servers: &Servers, name: &str) -> anyhow::Result<Crew> {
    let crew = Crew::hire(servers.urls(), WORKERS, TAKES).await?;
    servers.submit(1, name, TASKS).await?;
    crew.until("everybody works", |seen| {
        let busy: std::collections::HashSet<_> =
            seen.begun.values().flatten().map(|(worker, _)| *worker).collect();
        busy.len() == WORKERS
    })
    .await?;
    Ok(crew)
}

/// When workers had another stream; those that have none within twenty seconds had not lost theirs.
async fn reconnects(crew: &Crew, before: &[u64], since: Instant) -> Vec<Duration> {
    let mut back: HashMap<usize, Duration> = HashMap::new();
    while since.elapsed() < Duration::from_secs(20) {
        for (worker, (now, before)) in crew.welcomes().iter().zip(before).enumerate() {
            if now > before {
                back.entry(worker).or_insert_with(|| since.elapsed());
            }
        }
        sleep(Duration::from_millis(1)).await;
    }
    back.into_values().collect()
}

/// A worker that lost its stream has its tasks finished first; the next ones come only over a new stream.
fn next_copies<'a>(begun: impl Iterator<Item = &'a (usize, Instant)>, since: Instant) -> Vec<Duration> {
    let mut first: HashMap<usize, Instant> = HashMap::new();
    for (worker, at) in begun.filter(|(_, at)| *at > since) {
        let at_first = first.entry(*worker).or_insert(*at);
        *at_first = (*at_first).min(*at);
    }
    first.values().map(|at| *at - since).collect()
}

/// The longest time between two starts of copies of each worker, from then on.
fn longest_pauses<'a>(
    begun: impl Iterator<Item = &'a (usize, Instant)>,
    workers: usize,
    since: Instant,
) -> Vec<Duration> {
    let mut starts = vec![vec![since]; workers];
    for (worker, at) in begun.filter(|(_, at)| *at > since) {
        starts[*worker].push(*at);
    }
    let longest = |mut starts: Vec<Instant>| {
        starts.sort_unstable();
        starts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    };
    starts.into_iter().map(longest).collect()
}
