//! Fifty workers and two dispatchers, all of them restarted in order while they work: no task is lost, none fails, none costs an attempt
//! and none is copied twice.
//!
//! A few workers are processes, as they are shipped; the others run in the test's own process, each with its link, its runner and its
//! engine: fifty unoptimised processes that start again and again would be a test of the machine.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use backhaul_embedded_s3::Operation;
use backhaul_proto::v1::TaskState;
use backhaul_tests::{TestEnv, env::EnvOptions, locations::ORIGIN_BUCKET, s3::Written};
use backhaul_worker::{
    app::{self, AppError},
    config::Args,
};
use clap::Parser as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const WORKERS: usize = 50;
const PROCESSES: usize = 4;
const TASKS: usize = 150;

/// Workers that run here.
struct Crew {
    dispatchers: Vec<String>,
    locations: PathBuf,
    running: Vec<(CancellationToken, JoinSet<Result<(), AppError>>)>,
}

impl Crew {
    fn hire(env: &TestEnv, count: usize) -> Self {
        let mut crew = Self {
            dispatchers: env.dispatcher_urls(),
            locations: env.locations_file().to_owned(),
            running: Vec::new(),
        };
        for number in 0..count {
            let member = crew.start(number);
            crew.running.push(member);
        }
        crew
    }

    fn start(&self, number: usize) -> (CancellationToken, JoinSet<Result<(), AppError>>) {
        let name = format!("inside-{number}");
        let mut flags = vec![
            "backhaul-worker",
            "--name",
            &name,
            "--max-tasks",
            "3",
            "--drain-within",
            "30s",
            "--insecure",
        ];
        for url in &self.dispatchers {
            flags.extend(["--dispatcher", url]);
        }
        let locations = self.locations.to_string_lossy();
        flags.extend(["--locations", &locations]);
        let args = Args::try_parse_from(flags).expect("the flags are well formed");
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(app::run(args, stop.clone()));
        (stop, running)
    }

    /// Asks one to end, in order, and starts it again.
    async fn restart(&mut self, number: usize) -> anyhow::Result<()> {
        self.end(number).await?;
        self.running[number] = self.start(number);
        Ok(())
    }

    async fn end(&mut self, number: usize) -> anyhow::Result<()> {
        let (stop, running) = &mut self.running[number];
        stop.cancel();
        running.join_next().await.context("it was started")?.context("it panicked")?.context("its drain")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_workers_and_everything_restarted_in_order_costs_nothing() -> anyhow::Result<()> {
    let options = EnvOptions::default()
        .workers(0)
        .dispatcher_flag("lease", "30s")
        .dispatcher_flag("accept-within", "10s")
        .dispatcher_flag("drain-within", "20s")
        .worker_flag("drain-within", "30s")
        .worker_flag("max-tasks", "3");
    let mut env = TestEnv::start(options).await?;
    env.add_dispatcher(&[]).await?;
    for _ in 0..PROCESSES {
        env.add_worker().await?;
    }
    let mut crew = Crew::hire(&env, WORKERS - PROCESSES);
    let mut tasks: Vec<(String, Written)> = Vec::new();
    for number in 0..TASKS {
        let key = format!("n/{number}");
        let written = env.uploads().put_random(ORIGIN_BUCKET, &key, 2_000).await?;
        tasks.push((env.submit(&key).await?.task_id, written));
        // Something is always being restarted, one of each kind at a time.
        match number % 100 {
            10 | 60 => {
                let dispatcher = (number / 50) % 2;
                env.call(1 - dispatcher);
                ensure!(env.dispatcher_at(dispatcher).stop().await?.success(), "dispatcher {dispatcher}");
                env.restart_dispatcher_at(dispatcher).await?;
            }
            35 | 85 => {
                let worker = (number / 50) % PROCESSES;
                ensure!(env.worker(worker).stop().await?.success(), "worker {worker}");
                env.restart_worker(worker)?;
            }
            n if n % 5 == 0 => crew.restart((number / 5) % (WORKERS - PROCESSES)).await?,
            _ => {}
        }
    }
    for (id, written) in &tasks {
        let task = env.until(id, TaskState::Done).await?;
        let receipt = env.prove(&task, written).await?;
        let cost = (task.attempts, task.crashes, receipt.already_present);
        ensure!(cost == (0, 0, false), "{task:?}");
    }
    ensure!(env.kept().await?.len() == TASKS, "one copy each");
    let reads = env.origin_faults()?.requests(Operation::GetObject);
    ensure!(reads == TASKS as u64, "each object was read once, not {reads} times in all");
    for number in 0..crew.running.len() {
        crew.end(number).await?;
    }
    env.finish().await
}
