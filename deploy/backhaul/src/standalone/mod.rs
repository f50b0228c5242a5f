//! The whole of Backhaul in one process: a child redis-server, two embedded S3 stores, a dispatcher and a worker.
//!
//! For developers of internal services, and for the demo. Starts the parts in the order in which they need each other and stops
//! them in the reverse order. Holds no logic of any of them, and is not made for data that matters.

mod certificates;
mod layout;
mod redis;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use backhaul_embedded_s3::{Bucket, Credentials, EmbeddedS3, FaultPlan, Options as StoreOptions, Storage};
use backhaul_runtime::telemetry::{self, LogArgs, Telemetry};
use clap::Parser as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::{
    certificates::{Certificates, Program},
    layout::Layout,
    redis::ChildRedis,
};
use crate::{cli::StandaloneArgs, client::Security, commands::Verdict, output::Output};

/// Location that objects are uploaded to, and its one bucket.
pub(crate) const ORIGIN: (&str, &str) = ("uploads", "uploads");
/// Location that keeps the backups, and its one bucket.
pub(crate) const VAULT: (&str, &str) = ("vault", "backups");
/// Longest time for the services to finish after being told to stop.
const STOP_WITHIN: Duration = Duration::from_secs(40);

/// What to start, and where.
#[derive(Debug)]
pub(crate) struct Options {
    /// Folder for everything that is kept.
    pub(crate) data: PathBuf,
    /// Address of the dispatcher; port 0 for a free one.
    pub(crate) listen: SocketAddr,
    /// Address of the origin.
    pub(crate) origin_listen: SocketAddr,
    /// Address of the backup store.
    pub(crate) vault_listen: SocketAddr,
    /// The redis-server program.
    pub(crate) redis_server: PathBuf,
    /// Further flags of the dispatcher.
    pub(crate) dispatcher_flags: Vec<String>,
    /// Addresses for operators, of dispatcher and worker.
    pub(crate) ops: [Option<SocketAddr>; 2],
}

/// Everything, running.
#[derive(Debug)]
pub(crate) struct Standalone {
    services: JoinSet<anyhow::Result<()>>,
    stop_dispatcher: CancellationToken,
    stop_worker: CancellationToken,
    dispatcher: SocketAddr,
    origin: EmbeddedS3,
    vault: EmbeddedS3,
    layout: Layout,
    certificates: Certificates,
    redis: ChildRedis,
}

/// Runs until told to stop.
pub(crate) async fn run(args: StandaloneArgs, stop: CancellationToken) -> anyhow::Result<Verdict> {
    let telemetry = init_log(&args.log)?;
    let ended = telemetry.during(Box::pin(serve(args, stop))).await;
    telemetry.flush();
    ended
}

async fn serve(args: StandaloneArgs, stop: CancellationToken) -> anyhow::Result<Verdict> {
    let mut standalone = Standalone::start(Options {
        data: args.data,
        listen: args.listen,
        origin_listen: args.origin_listen,
        vault_listen: args.vault_listen,
        redis_server: args.redis_server,
        dispatcher_flags: Vec::new(),
        ops: [args.ops_listen, args.worker_ops_listen],
    })
    .await?;
    Output::new(false).note(&standalone.describe())?;
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = standalone.ended() => ended,
    };
    standalone.stop().await?;
    ended.map(|()| Verdict::Good)
}

/// Sets up logging once.
pub(crate) fn init_log(args: &LogArgs) -> anyhow::Result<Telemetry> {
    // The library behind the embedded stores calls every refusal an error, also those that are part of the work: a condition that does
    // not hold, a key that is not there. Who wants to see them names `s3s` in the filter.
    let args = LogArgs { log: format!("s3s=off,{}", args.log), ..args.clone() };
    telemetry::init(&args, "backhaul-standalone").context("setting up logs")
}

impl Standalone {
    /// Starts all parts; what was started is stopped again when one fails.
    pub(crate) async fn start(options: Options) -> anyhow::Result<Self> {
        let layout = Layout::prepare(&options.data)
            .with_context(|| format!("preparing the data folder {}", options.data.display()))?;
        let certificates = Certificates::make(layout.certificates()).context("making certificates")?;
        let redis = ChildRedis::start(&options.redis_server, &layout.redis()).await?;
        let origin =
            store(options.origin_listen, layout.origin_objects(), layout.origin_keys(), ORIGIN.1).await?;
        let vault = store(options.vault_listen, layout.vault_objects(), layout.vault_keys(), VAULT.1).await?;
        let locations = layout.write_locations(&origin.endpoint(), &vault.endpoint())?;
        let locations = locations.to_str().context("the data folder's path is not UTF-8")?;

        let listen = options.listen.to_string();
        let mut flags = vec![
            "dispatcher".to_owned(),
            format!("--listen={listen}"),
            format!("--redis-url={}", redis.url()),
            format!("--locations={locations}"),
            "--durability=local".to_owned(),
        ];
        flags.extend(certificates.flags(Program::Dispatcher));
        flags.extend(options.dispatcher_flags);
        let mut config = backhaul_dispatcher::config::Config::from_args(flags)?;
        // Set here and not by flags: both would take the same address from the environment.
        let [dispatcher_ops, worker_ops] = options.ops;
        config.ops_listen = dispatcher_ops;
        let app = backhaul_dispatcher::app::App::bind(config).await.context("starting the dispatcher")?;
        let dispatcher = app.addr();
        let mut flags = vec![
            "worker".to_owned(),
            format!("--dispatcher=https://{dispatcher}"),
            format!("--dispatcher-id={}", certificates.dispatcher()?),
            format!("--locations={locations}"),
            "--name=standalone".to_owned(),
        ];
        flags.extend(certificates.flags(Program::Worker));
        let mut worker = backhaul_worker::config::Args::try_parse_from(flags)?;
        worker.ops_listen = worker_ops;

        let (stop_dispatcher, stop_worker) = (CancellationToken::new(), CancellationToken::new());
        let mut services = JoinSet::new();
        let stop = stop_dispatcher.clone();
        services.spawn(async move { app.run(stop).await.context("the dispatcher ended") });
        let stop = stop_worker.clone();
        services
            .spawn(async move { backhaul_worker::app::run(worker, stop).await.context("the worker ended") });
        Ok(Self {
            services,
            stop_dispatcher,
            stop_worker,
            dispatcher,
            origin,
            vault,
            layout,
            certificates,
            redis,
        })
    }

    /// Address of the dispatcher for callers.
    pub(crate) fn dispatcher_url(&self) -> String {
        format!("https://{}", self.dispatcher)
    }

    /// Who a caller is, and whom it speaks with.
    pub(crate) fn caller(&self) -> anyhow::Result<Security> {
        let tls = self.certificates.of(Program::Caller);
        Ok(Security { tls, dispatcher: self.certificates.dispatcher()? })
    }

    /// Address of the origin.
    pub(crate) fn origin_endpoint(&self) -> String {
        self.origin.endpoint()
    }

    /// Address of the backup store.
    pub(crate) fn vault_endpoint(&self) -> String {
        self.vault.endpoint()
    }

    /// Access key id and secret of the origin.
    pub(crate) fn origin_keys(&self) -> (&str, &str) {
        self.layout.origin_keys().pair()
    }

    /// Access key id and secret of the backup store.
    pub(crate) fn vault_keys(&self) -> (&str, &str) {
        self.layout.vault_keys().pair()
    }

    /// What goes wrong at the origin, on purpose.
    pub(crate) fn origin_faults(&self) -> &FaultPlan {
        self.origin.faults()
    }

    /// Ends when a part ends by itself, which none should.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        tokio::select! {
            status = self.redis.exited() => bail!("redis-server ended: {status}"),
            Some(ended) = self.services.join_next() => ended.context("a service panicked")?,
        }
    }

    /// Stops the worker first, so that what it finishes is still confirmed; then the dispatcher, the stores and Redis.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.stop_worker.cancel();
        let services = &mut self.services;
        let stopped = tokio::time::timeout(STOP_WITHIN, async {
            let mut first = Ok(());
            loop {
                if services.len() <= 1 {
                    self.stop_dispatcher.cancel();
                }
                match services.join_next().await {
                    Some(ended) => {
                        first = first.and(ended.context("a service panicked").and_then(|done| done))
                    }
                    None => return first,
                }
            }
        })
        .await;
        self.origin.shutdown().await;
        self.vault.shutdown().await;
        self.redis.stop().await?;
        stopped.context("the services did not stop in time")?
    }

    fn describe(&self) -> String {
        let (origin_id, origin_secret) = self.origin_keys();
        format!(
            "Backhaul is running. Stop it with Ctrl-C; everything is kept in {data}.\n\
             \n\
             Upload to the origin (S3, bucket {bucket}), for example:\n\
             \x20 AWS_ACCESS_KEY_ID={origin_id} AWS_SECRET_ACCESS_KEY={origin_secret} \\\n\
             \x20   aws --endpoint-url {origin} s3 cp FILE s3://{bucket}/KEY\n\
             Back it up and follow it:\n\
             \x20 backhaul submit --dispatcher {dispatcher} \\\n\
             \x20   {caller} \\\n\
             \x20   --watch {location}:{bucket}/KEY\n\
             The backups are in {vault}, bucket {vault_bucket}; its keys are in {vault_keys}.",
            data = self.layout.root().display(),
            location = ORIGIN.0,
            bucket = ORIGIN.1,
            origin = self.origin.endpoint(),
            dispatcher = self.dispatcher_url(),
            caller = self.certificates.flags(Program::Caller).join(" "),
            vault = self.vault.endpoint(),
            vault_bucket = VAULT.1,
            vault_keys = self.layout.vault_credentials_file().display(),
        )
    }
}

async fn store(
    listen: SocketAddr,
    objects: PathBuf,
    keys: &layout::Keys,
    bucket: &str,
) -> anyhow::Result<EmbeddedS3> {
    let (access_key, secret_key) = keys.pair();
    EmbeddedS3::start(StoreOptions {
        listen,
        storage: Storage::Directory(objects),
        credentials: vec![Credentials {
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
        }],
        buckets: vec![Bucket { name: bucket.to_owned(), versioned: false }],
    })
    .await
    .with_context(|| format!("starting the embedded store for bucket {bucket} on {listen}"))
}
