//! The scaler as KEDA uses it: a client of the same contract, over loopback, on the port for operators.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use backhaul_proto::externalscaler::external_scaler_client::ExternalScalerClient;
use backhaul_runtime::ops::OpsPort;
use tokio::{task::JoinSet, time::timeout};
use tonic::{Code, service::Routes, transport::Channel};

use super::*;
use crate::queue::{
    QueueError,
    snapshot::{Observe, Snapshot},
};

/// A queue that says what a test tells it to.
#[derive(Debug, Default)]
struct Told {
    load: Mutex<Load>,
    is_down: AtomicBool,
}

#[async_trait]
impl Observe for Told {
    async fn load(&self) -> Result<Load, QueueError> {
        if self.is_down.load(Ordering::SeqCst) {
            return Err(QueueError::Unavailable("told to be down".into()));
        }
        Ok(*self.load.lock().unwrap())
    }

    async fn snapshot(&self) -> Result<Snapshot, QueueError> {
        Ok(Snapshot::default())
    }
}

struct Served {
    told: Arc<Told>,
    client: ExternalScalerClient<Channel>,
    stop: CancellationToken,
    _running: JoinSet<()>,
}

async fn served() -> Served {
    let (told, stop) = (Arc::new(Told::default()), CancellationToken::new());
    let watched = Arc::new(Watched::new(Arc::<Told>::clone(&told)));
    let scaler = Scaler::new(watched, stop.clone()).into_server();
    let port = OpsPort::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let url = format!("http://{}", port.addr());
    let mut running = JoinSet::new();
    running.spawn(port.serve(Routes::new(scaler).into_axum_router(), CancellationToken::new()));
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    Served { told, client: ExternalScalerClient::new(channel), stop, _running: running }
}

impl Served {
    fn set(&self, pending: u64, working: u64) {
        *self.told.load.lock().unwrap() = Load { pending, working };
    }

    async fn value(&mut self) -> Result<MetricValue, Status> {
        let request =
            GetMetricsRequest { scaled_object_ref: Some(object(&[])), metric_name: METRIC.to_owned() };
        Ok(self.client.get_metrics(request).await?.into_inner().metric_values.remove(0))
    }

    /// Waits until the scaler's look is a new one.
    async fn until_value(&mut self, expected: i64) {
        let reached = async {
            while self.value().await.unwrap().metric_value != expected {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(60), reached).await.expect("the value is seen");
    }
}

fn object(metadata: &[(&str, &str)]) -> ScaledObjectRef {
    let metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    ScaledObjectRef {
        name: "worker".into(),
        namespace: "backhaul".into(),
        scaler_metadata: metadata.collect(),
    }
}

#[tokio::test]
async fn what_waits_and_what_is_copied_both_count() {
    let mut served = served().await;
    served.set(5, 7);
    let value = served.value().await.unwrap();
    assert_eq!((value.metric_name.as_str(), value.metric_value), (METRIC, 12));
    assert!((value.metric_value_float - 12.0).abs() < 1e-9);
    served.set(0, 1);
    served.until_value(1).await;
    assert!(served.client.is_active(object(&[])).await.unwrap().into_inner().result);
    served.set(0, 0);
    served.until_value(0).await;
    assert!(!served.client.is_active(object(&[])).await.unwrap().into_inner().result);
}

#[tokio::test]
async fn a_queue_that_cannot_be_asked_is_unavailable_and_never_nothing_to_do() {
    let mut served = served().await;
    served.told.is_down.store(true, Ordering::SeqCst);
    assert_eq!(served.value().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(served.client.is_active(object(&[])).await.unwrap_err().code(), Code::Unavailable);
    let mut pushed = served.client.stream_is_active(object(&[])).await.unwrap().into_inner();
    assert_eq!(pushed.message().await.unwrap_err().code(), Code::Unavailable);
    // The metric's target does not depend on the queue: without it KEDA would fall back to CPU.
    assert!(served.client.get_metric_spec(object(&[])).await.is_ok());
}

#[tokio::test]
async fn one_worker_is_for_as_many_tasks_as_the_trigger_says() {
    let mut served = served().await;
    for (metadata, expected) in [(&[][..], 128.0), (&[(TASKS_PER_WORKER, "2.5")], 2.5)] {
        let spec = served.client.get_metric_spec(object(metadata)).await.unwrap().into_inner();
        let spec = &spec.metric_specs[0];
        assert_eq!(spec.metric_name, METRIC);
        assert!((spec.target_size_float - expected).abs() < 1e-9);
        assert!(spec.target_size >= 1);
    }
    for bad in ["0", "-1", "many", "NaN", "inf", ""] {
        let status = served.client.get_metric_spec(object(&[(TASKS_PER_WORKER, bad)])).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{bad}");
        assert!(status.message().starts_with(TASKS_PER_WORKER), "{status}");
    }
}

#[tokio::test]
async fn a_metric_that_does_not_exist_is_named() {
    let mut served = served().await;
    let request = GetMetricsRequest { scaled_object_ref: None, metric_name: "cpu".into() };
    let status = served.client.get_metrics(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains(METRIC), "{status}");
}

#[tokio::test]
async fn changes_are_pushed_and_only_changes() {
    let mut served = served().await;
    let mut pushed = served.client.stream_is_active(object(&[])).await.unwrap().into_inner();
    assert!(!pushed.message().await.unwrap().unwrap().result);
    served.set(1, 0);
    assert!(pushed.message().await.unwrap().unwrap().result);
    served.set(9, 3);
    served.until_value(12).await;
    served.set(0, 0);
    assert!(!pushed.message().await.unwrap().unwrap().result);
    served.stop.cancel();
    assert_eq!(pushed.message().await.unwrap_err().code(), Code::Unavailable);
}
