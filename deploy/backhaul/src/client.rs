//! Talking to the dispatcher: one channel, a deadline per call, repeats where they are safe, and errors a person can read.
//!
//! Every call of the service may be repeated; this is the one place that does so.

mod bearer;
mod prefix;

use std::{fmt, future::Future, io, time::Duration};

use backhaul_proto::v1::{
    self, backup_service_client::BackupServiceClient, event_service_client::EventServiceClient,
    prefix_service_client::PrefixServiceClient, rule_service_client::RuleServiceClient,
};
use backhaul_runtime::tls::{Anonymous, ClientStream, SpiffeId, Tls, TlsError, TlsSettings};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout_at},
};
use tonic::{
    Code, Status,
    service::interceptor::InterceptedService,
    transport::{Channel, Uri},
};
use tonic_types::StatusExt as _;

use self::bearer::Bearer;
use crate::{cli::ClientArgs, watching::Watching};

/// What calls go through.
pub(crate) type Transport = InterceptedService<Channel, Bearer>;

/// A client of the dispatcher.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    service: BackupServiceClient<Transport>,
    events: EventServiceClient<Transport>,
    prefixes: PrefixServiceClient<Transport>,
    rules: RuleServiceClient<Transport>,
    timeout: Duration,
}

/// Who this program is, and whom it speaks with.
#[derive(Debug, Clone)]
pub(crate) struct Security {
    /// Own certificate and trust.
    pub(crate) tls: TlsSettings,
    /// Who the dispatcher must be.
    pub(crate) dispatcher: SpiffeId,
}

/// Makes secured connections to one dispatcher.
#[derive(Debug, Clone)]
enum Secured {
    /// As the program that a certificate names.
    Certified(Tls, SpiffeId),
    /// As nobody yet.
    Anonymous(Anonymous),
}

/// Why the dispatcher could not be asked, or what it said no with.
#[derive(Debug)]
pub(crate) enum ClientError {
    /// A setting cannot be used.
    Usage(String),
    /// Nobody answers there, or somebody else.
    Connect { dispatcher: Uri, source: tonic::transport::Error },
    /// It answered with an error.
    Status(Status),
    /// No answer in time.
    Timeout(Duration),
}

impl Client {
    /// Connects.
    pub(crate) async fn connect(args: &ClientArgs) -> Result<Self, ClientError> {
        let usage = |problem: &dyn fmt::Display| ClientError::Usage(problem.to_string());
        let given = args.dispatcher_id.as_ref();
        if let Some(file) = &args.token_file {
            let trust = args.tls.without_certificate("--token-file").map_err(|problem| usage(&problem))?;
            let dispatcher = trust.dispatcher(given).map_err(|problem| usage(&problem))?;
            let anonymous = Anonymous::open(&trust, &dispatcher).map_err(unusable)?;
            let (secured, bearer) = (Some(Secured::Anonymous(anonymous)), Bearer::of(file));
            return Self::connect_as(&args.dispatcher, secured, bearer, args.timeout).await;
        }
        let security = match args.tls.settings().map_err(|problem| usage(&problem))? {
            Some(tls) => {
                let dispatcher = tls.dispatcher(given).map_err(|problem| usage(&problem))?;
                Some(Security { tls, dispatcher })
            }
            None => None,
        };
        Self::connect_to(&args.dispatcher, security, args.timeout).await
    }

    /// Connects to `dispatcher`, with `timeout` for each call.
    pub(crate) async fn connect_to(
        dispatcher: &Uri,
        security: Option<Security>,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let secured = match security {
            Some(Security { tls, dispatcher }) => {
                // Files that change later are of no interest to a command.
                let (tls, _reloader) = Tls::open(tls).map_err(unusable)?;
                Some(Secured::Certified(tls, dispatcher))
            }
            None => None,
        };
        Self::connect_as(dispatcher, secured, Bearer::default(), timeout).await
    }

    async fn connect_as(
        dispatcher: &Uri,
        secured: Option<Secured>,
        bearer: Bearer,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connect { dispatcher: dispatcher.clone(), source };
        let endpoint = |url: Uri| {
            Channel::builder(url)
                .connect_timeout(timeout.min(Duration::from_secs(5)))
                .tcp_nodelay(true)
                // A dispatcher that vanished without a word must not be waited for.
                .http2_keep_alive_interval(Duration::from_secs(10))
                .keep_alive_timeout(Duration::from_secs(10))
                .keep_alive_while_idle(true)
                .origin(dispatcher.clone())
        };
        let channel = match (dispatcher.scheme_str(), secured) {
            (Some("http"), None) => endpoint(dispatcher.clone()).connect().await.map_err(failed)?,
            (Some("https"), Some(secured)) => {
                let authority = dispatcher.authority().map_or("", |authority| authority.as_str()).to_owned();
                // The connection below is the secured one: tonic must not secure it once more.
                let inner = Uri::try_from(format!("http://{authority}"))
                    .map_err(|error| ClientError::Usage(format!("--dispatcher: {error}")))?;
                let connect = tower::service_fn(move |_: Uri| {
                    let (secured, authority) = (secured.clone(), authority.clone());
                    async move {
                        let io = TcpStream::connect(authority).await?;
                        io.set_nodelay(true)?;
                        secured.connect(io).await.map(TokioIo::new)
                    }
                });
                endpoint(inner).connect_with_connector(connect).await.map_err(failed)?
            }
            (_, secured) => {
                let expected = if secured.is_some() {
                    "must start with https://, because there is no --insecure"
                } else {
                    "must start with http://, because of --insecure"
                };
                return Err(ClientError::Usage(format!("--dispatcher: {expected}")));
            }
        };
        let transport = InterceptedService::new(channel, bearer);
        let events = EventServiceClient::new(transport.clone());
        let prefixes = PrefixServiceClient::new(transport.clone());
        let rules = RuleServiceClient::new(transport.clone());
        Ok(Self { service: BackupServiceClient::new(transport), events, prefixes, rules, timeout })
    }

    /// Submits up to 1,000 backups.
    pub(crate) async fn submit(
        &self,
        request: v1::SubmitBackupsRequest,
    ) -> Result<Vec<v1::SubmitBackupResult>, ClientError> {
        self.call(|mut service| {
            let request = request.clone();
            async move { service.submit_backups(request).await }
        })
        .await
        .map(|response| response.results)
    }

    /// Reads one task.
    pub(crate) async fn get(&self, task: &str) -> Result<v1::Backup, ClientError> {
        self.call(|mut service| {
            let task_id = task.to_owned();
            async move { service.get_backup(v1::GetBackupRequest { task_id }).await }
        })
        .await
    }

    /// Reads a page of tasks.
    pub(crate) async fn list(
        &self,
        request: &v1::ListBackupsRequest,
    ) -> Result<v1::ListBackupsResponse, ClientError> {
        self.call(|mut service| {
            let request = request.clone();
            async move { service.list_backups(request).await }
        })
        .await
    }

    /// Cancels one task.
    pub(crate) async fn cancel(&self, task: &str) -> Result<v1::Backup, ClientError> {
        self.call(|mut service| {
            let task_id = task.to_owned();
            async move { service.cancel_backup(v1::CancelBackupRequest { task_id }).await }
        })
        .await
        .map(|response| response.backup.unwrap_or_default())
    }

    /// Runs dead tasks again.
    pub(crate) async fn retry(
        &self,
        request: &v1::RetryBackupsRequest,
    ) -> Result<v1::RetryBackupsResponse, ClientError> {
        self.call(|mut service| {
            let request = request.clone();
            async move { service.retry_backups(request).await }
        })
        .await
    }

    /// How much is in the queues.
    pub(crate) async fn stats(
        &self,
        request: v1::GetQueueStatsRequest,
    ) -> Result<v1::GetQueueStatsResponse, ClientError> {
        self.call(|mut service| async move { service.get_queue_stats(request).await }).await
    }

    /// Asks the service of events.
    pub(crate) async fn events<T, F>(
        &self,
        call: impl FnMut(EventServiceClient<Transport>) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.repeat(&self.events, call).await
    }

    /// Asks the service of rules.
    pub(crate) async fn rules<T, F>(
        &self,
        call: impl FnMut(RuleServiceClient<Transport>) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.repeat(&self.rules, call).await
    }

    /// Follows tasks; connects when it is first asked for something.
    pub(crate) fn watch(&self, request: v1::WatchBackupsRequest) -> Watching {
        Watching::new(self.service.clone(), request, self.timeout)
    }

    async fn call<T, F>(
        &self,
        call: impl FnMut(BackupServiceClient<Transport>) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.repeat(&self.service, call).await
    }

    /// One call under one deadline. UNAVAILABLE and RESOURCE_EXHAUSTED are repeated after the time the dispatcher asks for.
    async fn repeat<C: Clone, T, F>(
        &self,
        service: &C,
        mut call: impl FnMut(C) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut pause = Duration::from_millis(200);
        loop {
            let answer = timeout_at(deadline, call(service.clone())).await;
            let status = match answer {
                Err(_) => return Err(ClientError::Timeout(self.timeout)),
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => status,
            };
            let wanted = status.get_details_retry_info().and_then(|info| info.retry_delay);
            let wait = wanted.unwrap_or(pause);
            if !matches!(status.code(), Code::Unavailable | Code::ResourceExhausted)
                || Instant::now() + wait >= deadline
            {
                return Err(ClientError::Status(status));
            }
            sleep(wait).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }
}

impl Secured {
    async fn connect(&self, io: TcpStream) -> io::Result<ClientStream<TcpStream>> {
        match self {
            Self::Certified(tls, expected) => tls.connect(io, expected).await,
            Self::Anonymous(anonymous) => anonymous.connect(io).await,
        }
    }
}

fn unusable(error: TlsError) -> ClientError {
    ClientError::Usage(format!("{:#}", anyhow::Error::from(error)))
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(problem) => f.write_str(problem),
            Self::Connect { dispatcher, .. } => write!(f, "no dispatcher answers at {dispatcher}"),
            Self::Timeout(after) => write!(f, "no answer within {}", humantime::format_duration(*after)),
            Self::Status(status) => {
                write!(f, "{}: {}", status.code(), status.message())?;
                if let Some(request) = status.get_details_bad_request() {
                    for violation in request.field_violations {
                        write!(f, "\n  {}: {}", violation.field, violation.description)?;
                    }
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect { source, .. } => Some(source),
            Self::Usage(_) | Self::Status(_) | Self::Timeout(_) => None,
        }
    }
}
