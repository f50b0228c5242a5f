//! What is measured of Backhaul. Each measurement has a dispatcher of its own on an emptied Redis.

use std::{path::Path, time::Duration};

use anyhow::ensure;
use tokio::time::Instant;

use crate::{
    report::Figures,
    servers::{Dispatcher, RedisServer},
    submit::Submitter,
    watch::{Watched, Watcher},
    workers::Fleet,
};

/// Tasks that each of the four workers may hold when rates are measured.
const CREDIT: u32 = 1000;
/// Tasks dispatched in one round of [`dispatch`], and rounds.
const DISPATCHED: u64 = 6_000;
const ROUNDS: u32 = 6;
const SMALL: u64 = 10_000;

/// Where measurements are taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// For files of servers.
    pub(crate) scratch: &'a Path,
    /// The Redis that others have been measured on.
    pub(crate) redis: &'a RedisServer,
}

/// What many tasks from submit to confirmation took.
struct Run {
    per_s: f64,
    redis_cpu_us: f64,
    dispatcher_cpu_us: Option<f64>,
    resident_mib: Option<f64>,
    script_calls: f64,
}

/// A dispatcher with tasks that wait, and workers that take none until they are told to.
struct Stocked<'a> {
    redis: &'a RedisServer,
    dispatcher: Dispatcher,
    submitter: Submitter,
    fleet: Fleet,
    pending: u64,
    submitted: u64,
    passed: Duration,
    redis_seconds: f64,
}

impl Place<'_> {
    async fn dispatcher(&self) -> anyhow::Result<Dispatcher> {
        Dispatcher::start(self.scratch, self.redis, &[]).await
    }

    /// Submits alone, then submits to confirmations, batched and one a call.
    pub(crate) async fn rates(&self, bulk: u64, single: u64) -> anyhow::Result<Figures> {
        let mut figures = Figures::new();
        for (is_bulk, submit, end_to_end) in [
            (true, "submit_batched_per_s", "end_to_end_batched_per_s"),
            (false, "submit_per_s", "end_to_end_per_s"),
        ] {
            let count = if is_bulk { bulk } else { single };
            let dispatcher = self.dispatcher().await?;
            let mut submitter = Submitter::connect(&dispatcher).await?;
            let begin = Instant::now();
            submit_all(&mut submitter, is_bulk, count).await?;
            figures.insert(submit.into(), rate(count, begin.elapsed()));
            drop(dispatcher);

            let run = self.end_to_end(is_bulk, count, &[], None).await?;
            figures.insert(end_to_end.into(), run.per_s);
            if is_bulk {
                figures.insert("script_calls_per_task".into(), run.script_calls);
                figures.insert("redis_cpu_us_per_task".into(), run.redis_cpu_us);
                let of_dispatcher = [
                    ("dispatcher_cpu_us_per_task", run.dispatcher_cpu_us),
                    ("dispatcher_resident_mib", run.resident_mib),
                ];
                figures.extend(of_dispatcher.into_iter().filter_map(|(key, f)| Some((key.to_owned(), f?))));
            }
        }
        Ok(figures)
    }

    /// The same load with nobody watching, with one who watches a single task, and with one who is told of every change.
    pub(crate) async fn watched(&self, count: u64) -> anyhow::Result<Figures> {
        let mut figures = Figures::new();
        let kinds = [
            ("watched_by_none", None),
            ("watched_one", Some(Watched::One)),
            ("watched_all", Some(Watched::All)),
        ];
        for (name, watched) in kinds {
            figures.extend(cost(name, &self.end_to_end(true, count, &[], watched).await?));
        }
        Ok(figures)
    }

    /// The same load on one server with the tasks in one shard, in as many as are the default, and in many.
    pub(crate) async fn shards(&self, count: u64) -> anyhow::Result<Figures> {
        let mut figures = Figures::new();
        for shards in ["1", "4", "16"] {
            let run = self.end_to_end(true, count, &["--shards", shards], None).await?;
            figures.extend(cost(&format!("shards_{shards}"), &run));
        }
        Ok(figures)
    }

    async fn end_to_end(
        &self,
        is_bulk: bool,
        count: u64,
        flags: &[&str],
        watched: Option<Watched>,
    ) -> anyhow::Result<Run> {
        let dispatcher = Dispatcher::start(self.scratch, self.redis, flags).await?;
        let mut submitter = Submitter::connect(&dispatcher).await?;
        let mut fleet = Fleet::connect(&dispatcher, CREDIT).await?;
        let watcher = match watched {
            Some(watched) => Some(Watcher::connect(&dispatcher, &mut submitter, &mut fleet, watched).await?),
            None => None,
        };
        let goal = fleet.seen().confirmed + count;
        let (cpu_before, redis_before) = (dispatcher.usage(), self.redis.cpu_seconds().await?);
        let calls_before = self.redis.script_calls().await?;
        let begin = Instant::now();
        tokio::try_join!(
            submit_all(&mut submitter, is_bulk, count),
            fleet.until(|seen| seen.confirmed >= goal)
        )?;
        let elapsed = begin.elapsed();
        let (cpu_after, redis_after) = (dispatcher.usage(), self.redis.cpu_seconds().await?);
        let calls = self.redis.script_calls().await? - calls_before;
        if let Some(watcher) = watcher {
            watcher.end()?;
        }
        let used = cpu_before.zip(cpu_after).map(|((before, _), (after, _))| after - before);
        Ok(Run {
            per_s: rate(count, elapsed),
            redis_cpu_us: (redis_after - redis_before) * 1e6 / count as f64,
            dispatcher_cpu_us: used.map(|seconds| seconds * 1e6 / count as f64),
            resident_mib: cpu_after.map(|(_, resident)| resident),
            script_calls: calls as f64 / count as f64,
        })
    }

    /// How long a task takes to a worker when there is no other, in milliseconds from the call of the submit and from its answer.
    pub(crate) async fn latency(&self, samples: u64) -> anyhow::Result<Figures> {
        let dispatcher = self.dispatcher().await?;
        let mut submitter = Submitter::connect(&dispatcher).await?;
        let mut fleet = Fleet::connect(&dispatcher, CREDIT).await?;
        let (mut from_call, mut from_answer) = (Vec::new(), Vec::new());
        for n in 1..=samples {
            let called = Instant::now();
            submitter.one().await?;
            let answered = Instant::now();
            let seen = fleet.until(|seen| seen.assigned >= n).await?;
            from_call.push(seen.assigned_at.duration_since(called));
            // The worker may well be faster than the answer.
            from_answer.push(seen.assigned_at.saturating_duration_since(answered));
            fleet.until(|seen| seen.confirmed >= n).await?;
        }
        let mut figures = Figures::new();
        for (name, mut times) in [("assign", from_call), ("assign_after_answer", from_answer)] {
            times.sort_unstable();
            for percent in [50, 99] {
                let at = (times.len() * percent / 100).min(times.len().saturating_sub(1));
                let time = times.get(at).copied().unwrap_or_default();
                figures.insert(format!("{name}_p{percent}_ms"), time.as_secs_f64() * 1000.0);
            }
        }
        Ok(figures)
    }

    /// Bytes of Redis for each of `count` pending tasks, all indexes included.
    pub(crate) async fn bytes_per_task(&self, count: u64) -> anyhow::Result<f64> {
        let dispatcher = self.dispatcher().await?;
        let mut submitter = Submitter::connect(&dispatcher).await?;
        let before = self.redis.data_bytes().await?;
        submitter.batches(count).await?;
        Ok((self.redis.data_bytes().await? - before) as f64 / count as f64)
    }

    async fn stocked(&self, pending: u64) -> anyhow::Result<Stocked<'_>> {
        let dispatcher = self.dispatcher().await?;
        let submitter = Submitter::connect(&dispatcher).await?;
        let fleet = Fleet::connect(&dispatcher, 0).await?;
        let (submitted, passed, redis_seconds) = (0, Duration::ZERO, 0.0);
        let redis = self.redis;
        Ok(Stocked { redis, dispatcher, submitter, fleet, pending, submitted, passed, redis_seconds })
    }

    /// Tasks a second from pending to confirmed, with 10 thousand and with `many` pending, in turns; and what so many take.
    pub(crate) async fn dispatch(&self, small: &RedisServer, many: u64) -> anyhow::Result<Figures> {
        let before = self.redis.data_bytes().await?;
        let mut large = self.stocked(many).await?;
        let beside = Place { redis: small, ..*self };
        let mut small = beside.stocked(SMALL).await?;
        let mut figures = Figures::new();
        for round in 0..ROUNDS {
            large.round().await?;
            if round == 0 {
                let data = self.redis.data_bytes().await? - before;
                figures.insert("large_data_gib".into(), data as f64 / f64::from(1 << 30));
                let resident = self.redis.resident_bytes().await?;
                figures.insert("large_resident_gib".into(), resident as f64 / f64::from(1 << 30));
            }
            small.round().await?;
        }
        for (name, stocked) in [("small", small), ("large", large)] {
            let dispatched = DISPATCHED * u64::from(ROUNDS);
            figures.insert(format!("dispatch_{name}_per_s"), rate(dispatched, stocked.passed));
            let micros = stocked.redis_seconds * 1e6 / dispatched as f64;
            figures.insert(format!("dispatch_{name}_redis_cpu_us"), micros);
        }
        figures.insert("dispatch_large_pending".into(), many as f64);
        Ok(figures)
    }
}

impl Stocked<'_> {
    /// Fills up what waits, then has some of it dispatched and confirmed.
    async fn round(&mut self) -> anyhow::Result<()> {
        let waiting = self.submitted - self.fleet.seen().confirmed;
        let more = self.pending.saturating_sub(waiting);
        self.submitter.batches(more).await?;
        self.submitted += more;
        let redis_before = self.redis.cpu_seconds().await?;
        let begin = Instant::now();
        let goal = self.fleet.seen().confirmed + DISPATCHED;
        self.fleet.set_credit(CREDIT);
        self.fleet.until(|seen| seen.confirmed >= goal).await?;
        self.passed += begin.elapsed();
        self.redis_seconds += self.redis.cpu_seconds().await? - redis_before;
        self.fleet.set_credit(0);
        let seen = self.fleet.until(|seen| seen.confirmed == seen.assigned).await?;
        ensure!(seen.confirmed <= self.submitted, "more tasks than were submitted");
        ensure!(self.dispatcher.usage().is_some(), "the dispatcher has ended");
        Ok(())
    }
}

fn cost(name: &str, run: &Run) -> Figures {
    let parts = [
        ("per_s", Some(run.per_s)),
        ("redis_cpu_us", Some(run.redis_cpu_us)),
        ("dispatcher_cpu_us", run.dispatcher_cpu_us),
    ];
    parts.into_iter().filter_map(|(part, figure)| Some((format!("{name}_{part}"), figure?))).collect()
}

async fn submit_all(submitter: &mut Submitter, is_bulk: bool, count: u64) -> anyhow::Result<()> {
    if is_bulk { submitter.batches(count).await } else { submitter.singles(count).await }
}

fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
