//! One run: builds everything on a simulated network, lets the plan happen, heals, waits until all is done, and has it checked.
//!
//! What runs is the product: dispatchers with sessions, dispatch and API, workers with link, runner and engine. Only the network, the
//! clock, the queue's store and the object stores are stand-ins.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backhaul_dispatcher::{
    app::App,
    config::Config,
    queue::{QueueClock, UnixMs},
};
use backhaul_runtime::locations::Locations;
use backhaul_worker::{
    app::{self as worker_app, AppError},
    config::WorkerSettings,
    store::{
        ObjectStore,
        memory::{MemoryOptions, MemoryStore},
    },
    transfer::{Engine, EngineSettings, Limits},
};
use tokio_util::sync::CancellationToken;
use turmoil::Sim;

use crate::{
    callers::{Caller, LOCATION, PLAIN, Promises, VERSIONED},
    check,
    copies::{Copies, CountingCopier},
    history::History,
    net::{PORT, SimConnector, SimListener},
    plan::{Act, Host, Mood, Plan, USUAL_LATENCY},
    queue::SharedQueue,
    sabotage::Sabotage,
    store::StoreLine,
    stranger::Stranger,
    weather::Weather,
};

/// Where backups go; its bucket keeps every version, so that nothing that is overwritten is gone.
pub(crate) const VAULT: &str = "versioned-backups";

/// How long everything may take to end once nothing goes wrong any more: a connection that died without a word is found within
/// 20 s, the next one comes within 10 s more, and a task that was held then waits for its lease and its retry.
const DRAINS_WITHIN: Duration = Duration::from_secs(120);

/// When the queue's clock starts.
const START: UnixMs = UnixMs(1_800_000_000_000);

/// How one run ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) history: History,
    pub(crate) took: Duration,
    pub(crate) copies: usize,
}

/// What outlives the processes.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) history: History,
    pub(crate) queue: Arc<SharedQueue>,
    pub(crate) origin: Arc<MemoryStore>,
    pub(crate) vault: Arc<MemoryStore>,
    pub(crate) promises: Promises,
    pub(crate) copies: Copies,
    pub(crate) sabotage: Option<Sabotage>,
    clock: QueueClock,
    weather: Weather,
    locations: Arc<Locations>,
    stops: Arc<Mutex<BTreeMap<Host, CancellationToken>>>,
}

/// Runs a plan.
pub(crate) fn run(plan: Plan, sabotage: Option<Sabotage>) -> Run {
    fastrand::seed(plan.seed);
    let world = World::new(plan, sabotage);
    let mut sim = world.build();
    world.play(&mut sim);
    let took = sim.elapsed();
    check::everything(&world);
    // The processes end here and not at the end of the program, where nothing is watched any more.
    drop(sim);
    Run { history: world.history.clone(), took, copies: world.copies.finished() }
}

impl World {
    fn new(plan: Plan, sabotage: Option<Sabotage>) -> Self {
        let history = History::default();
        let weather = Weather::new(plan.seed ^ 0x57_0b);
        let clock = QueueClock::starting_at(START);
        let settings = dispatcher_config().queue;
        let queue = SharedQueue::new(
            settings,
            clock.clone(),
            plan.dispatchers,
            history.clone(),
            weather.clone(),
            sabotage,
        );
        let store = |buckets: &[&str]| Arc::new(MemoryStore::new(MemoryOptions::default(), buckets));
        Self {
            plan,
            queue,
            origin: store(&[VERSIONED, PLAIN]),
            vault: store(&[VAULT]),
            promises: Promises::default(),
            copies: Copies::default(),
            sabotage,
            clock,
            weather,
            locations: Arc::new(locations()),
            stops: Arc::default(),
            history,
        }
    }

    fn build(&self) -> Sim<'static> {
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(self.plan.seed)
            .tick_duration(self.plan.tick)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(USUAL_LATENCY)
            .simulation_duration(Duration::from_secs(3_600))
            .enable_random_order();
        let mut sim = builder.build();
        for number in 0..self.plan.dispatchers {
            let world = self.clone();
            sim.host(Host::Dispatcher(number).to_string(), move || world.clone().dispatcher(number));
        }
        for number in 0..self.plan.workers {
            let world = self.clone();
            sim.host(Host::Worker(number).to_string(), move || world.clone().worker(number));
        }
        if self.plan.mood != Mood::Graceful && self.plan.seed.is_multiple_of(3) {
            let stranger = Stranger {
                rng: fastrand::Rng::with_seed(self.plan.seed ^ 0x57),
                dispatchers: self.plan.dispatchers,
                history: self.history.clone(),
                until: self.plan.heals_at,
            };
            sim.client("stranger", async move {
                stranger.run().await;
                Ok(())
            });
        }
        for number in 0..2 {
            let name = format!("caller-{number}");
            let caller = Caller {
                name: name.clone(),
                rng: fastrand::Rng::with_seed(self.plan.seed ^ (number as u64 + 1)),
                dispatchers: self.plan.dispatchers,
                history: self.history.clone(),
                origin: Arc::clone(&self.origin),
                promises: self.promises.clone(),
                channels: vec![None; self.plan.dispatchers],
            };
            let numbers = (0..self.plan.objects).filter(|object| object % 2 == number).collect();
            let plan = self.plan.clone();
            sim.client(name, async move {
                caller.run(plan, numbers).await;
                Ok(())
            });
        }
        sim
    }

    async fn dispatcher(self, number: usize) -> turmoil::Result {
        let host = Host::Dispatcher(number);
        self.history.note(host, "starts");
        let stop = self.new_stop(host);
        let queue = Arc::new(self.queue.line(number));
        let app =
            App::on(SimListener::bind().await?, dispatcher_config(), queue, Arc::clone(&self.locations))?;
        match Box::pin(app.run(stop)).await {
            Ok(()) => self.history.note(host, "has ended"),
            Err(error) => self.history.violation(format_args!("{host} failed: {error}")),
        }
        Ok(())
    }

    async fn worker(self, number: usize) -> turmoil::Result {
        let host = Host::Worker(number);
        self.history.note(host, "starts");
        let stop = self.new_stop(host);
        let engine = Engine::with_stores(&self.locations, engine_settings(), |location| {
            let (store, overwrites) = if location.name == LOCATION {
                (&self.origin, false)
            } else {
                (&self.vault, self.sabotage == Some(Sabotage::Overwrite))
            };
            let line = StoreLine::new(Arc::clone(store), self.weather.clone(), overwrites);
            Some(Arc::new(line) as Arc<dyn ObjectStore>)
        })?;
        let copier = CountingCopier::new(engine, self.copies.clone(), self.history.clone(), host);
        let settings = worker_settings(&self.plan, number)?;
        let work =
            worker_app::run_over(settings, Arc::new(copier), Arc::default(), Arc::new(SimConnector), stop);
        match Box::pin(work).await {
            Ok(()) => self.history.note(host, "has drained"),
            Err(error @ AppError::Unclean(_)) if self.plan.mood != Mood::Graceful => {
                self.history.note(host, error);
            }
            Err(error) => self.history.violation(format_args!("{host} failed: {error}")),
        }
        Ok(())
    }

    /// Lets the plan happen, and waits until everything has ended.
    fn play(&self, sim: &mut Sim<'_>) {
        let mut acts = self.plan.acts.iter().peekable();
        let mut starting = Vec::new();
        let mut healed = false;
        loop {
            let now = sim.elapsed();
            self.history.set_now(now);
            self.clock.set(START.plus(now));
            while let Some((_, act)) = acts.next_if(|(at, _)| *at <= now) {
                self.history.note("plan", format_args!("{act:?}"));
                self.act(sim, act, &mut starting);
            }
            if !healed && now >= self.plan.heals_at {
                healed = true;
                self.heal(sim, &mut starting);
            }
            starting.retain(|host: &Host| {
                if sim.is_host_running(host.to_string()) {
                    return true;
                }
                sim.bounce(host.to_string());
                false
            });
            let callers_done = match sim.step() {
                Ok(done) => done,
                Err(error) => return self.history.violation(format_args!("a host failed: {error}")),
            };
            if callers_done && healed && self.is_drained() {
                return;
            }
            if now > self.plan.heals_at + DRAINS_WITHIN {
                let open = self.queue.ledger().open_tasks();
                let what = format_args!(
                    "not drained {DRAINS_WITHIN:?} after all was well: callers done: {callers_done}, open: {open:?}"
                );
                return self.history.violation(what);
            }
        }
    }

    fn is_drained(&self) -> bool {
        let all_known = self.promises.all().iter().all(|promise| promise.task.is_some());
        all_known && self.queue.ledger().open_tasks().is_empty()
    }

    fn act(&self, sim: &mut Sim<'_>, act: &Act, starting: &mut Vec<Host>) {
        match act {
            Act::Kill(host) => sim.crash(host.to_string()),
            Act::Stop(host) => {
                if let Some(stop) = self.stops().get(host) {
                    stop.cancel();
                }
            }
            Act::Start(host) => starting.push(*host),
            Act::Cut(one, other) => sim.partition(one.to_string(), other.to_string()),
            Act::CutOneWay(from, to) => sim.partition_oneway(from.to_string(), to.to_string()),
            Act::Mend(one, other) => sim.repair(one.to_string(), other.to_string()),
            Act::Hold(one, other) => sim.hold(one.to_string(), other.to_string()),
            Act::Release(one, other) => sim.release(one.to_string(), other.to_string()),
            Act::Latency(most) => sim.set_max_message_latency(*most),
            Act::CutOffQueue(dispatchers) => self.weather.cut_off(dispatchers.clone()),
            Act::Faults(queue, store) => self.weather.set_faults(*queue, *store),
            Act::Delays(queue, store) => self.weather.set_delays(*queue, *store),
        }
    }

    fn heal(&self, sim: &mut Sim<'_>, starting: &mut Vec<Host>) {
        self.history.note("plan", "all is well");
        self.weather.cut_off(Vec::new());
        self.weather.set_faults(0, 0);
        self.weather.set_delays(2, 20);
        sim.set_max_message_latency(USUAL_LATENCY);
        for dispatcher in (0..self.plan.dispatchers).map(Host::Dispatcher) {
            for worker in (0..self.plan.workers).map(Host::Worker) {
                sim.release(dispatcher.to_string(), worker.to_string());
                sim.repair(dispatcher.to_string(), worker.to_string());
            }
            starting.push(dispatcher);
        }
        starting.extend((0..self.plan.workers).map(Host::Worker));
        // What runs and was not asked to end goes on; the rest starts as soon as it has ended.
        let stops = self.stops();
        starting.retain(|host| {
            !sim.is_host_running(host.to_string())
                || stops.get(host).is_none_or(CancellationToken::is_cancelled)
        });
        starting.sort_unstable();
        starting.dedup();
    }

    fn new_stop(&self, host: Host) -> CancellationToken {
        let stop = CancellationToken::new();
        self.stops().insert(host, stop.clone());
        stop
    }

    fn stops(&self) -> MutexGuard<'_, BTreeMap<Host, CancellationToken>> {
        self.stops.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn locations() -> Locations {
    let text = format!(
        r#"
        [location.{LOCATION}]
        endpoint = "http://origin"
        region = "sim"
        credentials = "anonymous"
        [[location.{LOCATION}.read]]
        bucket = "{VERSIONED}"
        prefixes = [""]
        tenants = ["*"]
        [[location.{LOCATION}.read]]
        bucket = "{PLAIN}"
        prefixes = [""]
        tenants = ["*"]
        [location.{LOCATION}.backup]
        location = "vault"
        bucket = "{VAULT}"
        prefix = "copies"
        [location.vault]
        endpoint = "http://vault"
        region = "sim"
        credentials = "anonymous"
        "#
    );
    Locations::parse(&text, Path::new("locations.toml")).expect("the locations hold together")
}

/// Short times, in the proportions of the defaults.
fn dispatcher_config() -> Config {
    let flags = [
        "backhaul-dispatcher",
        "--insecure",
        "--locations",
        "unused",
        "--tenant",
        "web",
        "--shards",
        "2",
        "--lease",
        "3s",
        "--accept-within",
        "1500ms",
        "--hello-within",
        "2s",
        "--sweep-every",
        "250ms",
        "--retry-base",
        "200ms",
        "--retry-floor",
        "20ms",
        "--retry-max",
        "2s",
        "--max-crashes",
        "60",
        "--max-returns",
        "1000",
        "--call-deadline",
        "2s",
        "--drain-within",
        "4s",
    ];
    Config::from_args(flags).expect("the flags hold together")
}

fn worker_settings(plan: &Plan, number: usize) -> Result<WorkerSettings, Box<dyn std::error::Error>> {
    let url = |number| format!("http://{}:{PORT}", Host::Dispatcher(number)).parse();
    Ok(WorkerSettings {
        dispatchers: (0..plan.dispatchers).map(url).collect::<Result<_, _>>()?,
        name: Host::Worker(number).to_string(),
        origins: [LOCATION.to_owned()].into(),
        retention_classes: [].into(),
        max_tasks: 1 + u32::try_from(plan.seed % 5)? * 2,
        memory_bytes: 64 << 20,
        part_bytes: 5 << 20,
        drain_within: plan.worker_drains_within,
        security: None,
    })
}

/// Small parts, so that small objects have many.
fn engine_settings() -> EngineSettings {
    EngineSettings {
        memory_bytes: 64 * 1024,
        part_bytes: 1024,
        whole_bytes: 1024,
        copy_part_bytes: 1024,
        limits: Limits { min_part_bytes: 1, ..Limits::default() },
        ..EngineSettings::default()
    }
}
