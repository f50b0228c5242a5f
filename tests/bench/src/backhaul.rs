//! What is measured of Backhaul. Each measurement has a dispatcher of its own on an emptied Redis.

use std::{path::Path, time::Duration};

use anyhow::ensure;
use tokio::time::Instant;

use crate::{
    report::Figures,
    servers::{Dispatcher, RedisServer},
    submit::Submitter,
    workers::Fleet,
};

/// Tasks that each of the four workers may hold when rates are measured.
const CREDIT: u32 = 1000;
/// Tasks dispatched in one round of [`dispatch`], and rounds.
const DISPATCHED: u64 = 6_000;
const ROUNDS: u32 = 4;
const SMALL: u64 = 10_000;

/// Where measurements are taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// For files of servers.
    pub(crate) scratch: &'a Path,
    /// The Redis that others have been measured on.
    pub(crate) redis: &'a RedisServer,
}

impl Place<'_> {
    async fn dispatcher(&self) -> anyhow::Result<Dispatcher> {
        Dispatcher::start(self.scratch, self.redis).await
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

            let dispatcher = self.dispatcher().await?;
            let mut submitter = Submitter::connect(&dispatcher).await?;
            let mut fleet = Fleet::connect(&dispatcher, CREDIT).await?;
            let (cpu_before, redis_before) = (dispatcher.usage(), self.redis.cpu_seconds().await?);
            let calls_before = self.redis.script_calls().await?;
            let begin = Instant::now();
            tokio::try_join!(
                submit_all(&mut submitter, is_bulk, count),
                fleet.until(|seen| seen.confirmed >= count)
            )?;
            figures.insert(end_to_end.into(), rate(count, begin.elapsed()));
            if is_bulk {
                let calls = self.redis.script_calls().await? - calls_before;
                figures.insert("script_calls_per_task".into(), calls as f64 / count as f64);
                let redis_seconds = self.redis.cpu_seconds().await? - redis_before;
                figures.insert("redis_cpu_us_per_task".into(), redis_seconds * 1e6 / count as f64);
            }
            if let (true, Some((before, _)), Some((after, resident))) =
                (is_bulk, cpu_before, dispatcher.usage())
            {
                figures.insert("dispatcher_cpu_us_per_task".into(), (after - before) * 1e6 / count as f64);
                figures.insert("dispatcher_resident_mib".into(), resident);
            }
        }
        Ok(figures)
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

    /// Tasks a second from pending to confirmed, with 10 thousand and with `many` pending.
    pub(crate) async fn dispatch(&self, many: u64) -> anyhow::Result<Figures> {
        let mut figures = Figures::new();
        for (key, pending) in [("dispatch_small_per_s", SMALL), ("dispatch_large_per_s", many)] {
            let dispatcher = self.dispatcher().await?;
            let mut submitter = Submitter::connect(&dispatcher).await?;
            let mut fleet = Fleet::connect(&dispatcher, 0).await?;
            let (mut submitted, mut passed) = (0, Duration::ZERO);
            for _ in 0..ROUNDS {
                let waiting = submitted - fleet.seen().confirmed;
                let more = pending.saturating_sub(waiting);
                submitter.batches(more).await?;
                submitted += more;
                let begin = Instant::now();
                let goal = fleet.seen().confirmed + DISPATCHED;
                fleet.set_credit(CREDIT);
                fleet.until(|seen| seen.confirmed >= goal).await?;
                passed += begin.elapsed();
                fleet.set_credit(0);
                let seen = fleet.until(|seen| seen.confirmed == seen.assigned).await?;
                ensure!(seen.confirmed <= submitted, "more tasks than were submitted");
            }
            figures.insert(key.into(), rate(DISPATCHED * u64::from(ROUNDS), passed));
        }
        figures.insert("dispatch_large_pending".into(), many as f64);
        Ok(figures)
    }
}

async fn submit_all(submitter: &mut Submitter, is_bulk: bool, count: u64) -> anyhow::Result<()> {
    if is_bulk { submitter.batches(count).await } else { submitter.singles(count).await }
}

fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
