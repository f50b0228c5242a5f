//! KEDA's `ExternalScaler`: how much there is for workers to do, for whoever decides how many of them there are.
//!
//! The answer is the queue's, not this dispatcher's, so that any of them can be asked: tasks in pending and tasks under a lease, against
//! the number of tasks that one worker holds. When the queue cannot be asked the answer is UNAVAILABLE and never 0: nothing to do would
//! take away the workers of all that is waiting.

use std::{pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use backhaul_proto::externalscaler::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
    ScaledObjectRef,
    external_scaler_server::{ExternalScaler, ExternalScalerServer},
};
use futures_util::{Stream, stream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::debug;

use crate::queue::snapshot::{Blind, Load, Watched};

/// Name of the one metric.
pub const METRIC: &str = "backhaul-tasks";

/// Key of the trigger's metadata for how many tasks one worker is for.
pub const TASKS_PER_WORKER: &str = "tasksPerWorker";

/// Tasks that one worker is for unless the trigger says otherwise: what a worker holds unless it is told otherwise.
const DEFAULT_TASKS_PER_WORKER: f64 = 128.0;

/// Most tasks that one worker can be for.
const MOST_TASKS_PER_WORKER: f64 = 1e9;

/// How often a stream looks for a change.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Answers KEDA.
#[derive(Debug, Clone)]
pub struct Scaler {
    watched: Arc<Watched>,
    stop: CancellationToken,
}

/// Where a stream is.
struct Push {
    scaler: Scaler,
    told: Option<bool>,
}

impl Scaler {
    /// A scaler that looks at `watched`; its streams end with `stop`.
    #[must_use]
    pub const fn new(watched: Arc<Watched>, stop: CancellationToken) -> Self {
        Self { watched, stop }
    }

    /// The tonic service.
    #[must_use]
    pub fn into_server(self) -> ExternalScalerServer<Self> {
        ExternalScalerServer::new(self).max_decoding_message_size(64 * 1024)
    }

    async fn load(&self) -> Result<Load, Status> {
        self.watched.load().await.map_err(|blind| unavailable(&blind))
    }

    /// Waits for an answer that differs from the last one.
    async fn next(&self, told: Option<bool>) -> Result<bool, Status> {
        loop {
            let active = self.load().await?.total() > 0;
            if told != Some(active) {
                return Ok(active);
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

#[async_trait]
impl ExternalScaler for Scaler {
    type StreamIsActiveStream = Pin<Box<dyn Stream<Item = Result<IsActiveResponse, Status>> + Send>>;

    async fn is_active(
        &self,
        _request: Request<ScaledObjectRef>,
    ) -> Result<Response<IsActiveResponse>, Status> {
        Ok(Response::new(IsActiveResponse { result: self.load().await?.total() > 0 }))
    }

    async fn stream_is_active(
        &self,
        _request: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        let push = Push { scaler: self.clone(), told: None };
        let answers = stream::try_unfold(Some(push), |push: Option<Push>| async move {
            let Some(mut push) = push else { return Ok(None) };
            let stop = push.scaler.stop.clone();
            match stop.run_until_cancelled(push.scaler.next(push.told)).await {
                Some(active) => {
                    let result = active?;
                    push.told = Some(result);
                    Ok(Some((IsActiveResponse { result }, Some(push))))
                }
                // KEDA connects again, to another dispatcher.
                None => Err(Status::unavailable("the dispatcher is shutting down")),
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        let target = tasks_per_worker(request.get_ref())?;
        let spec = MetricSpec {
            metric_name: METRIC.to_owned(),
            target_size: whole(target).max(1),
            target_size_float: target,
        };
        Ok(Response::new(GetMetricSpecResponse { metric_specs: vec![spec] }))
    }

    async fn get_metrics(
        &self,
        request: Request<GetMetricsRequest>,
    ) -> Result<Response<GetMetricsResponse>, Status> {
        if request.get_ref().metric_name != METRIC {
            return Err(Status::invalid_argument(format!("metricName: the one metric is {METRIC}")));
        }
        let tasks = self.load().await?.total();
        #[expect(clippy::cast_precision_loss, reason = "nobody needs a worker for one task in 2^53")]
        let value = tasks as f64;
        let value = MetricValue {
            metric_name: METRIC.to_owned(),
            metric_value: i64::try_from(tasks).unwrap_or(i64::MAX),
            metric_value_float: value,
        };
        Ok(Response::new(GetMetricsResponse { metric_values: vec![value] }))
    }
}

/// How many tasks one worker is for, by the trigger's metadata.
fn tasks_per_worker(object: &ScaledObjectRef) -> Result<f64, Status> {
    let Some(text) = object.scaler_metadata.get(TASKS_PER_WORKER) else {
        return Ok(DEFAULT_TASKS_PER_WORKER);
    };
    let number = text.parse::<f64>().ok().filter(|n| *n > 0.0 && *n <= MOST_TASKS_PER_WORKER);
    number.ok_or_else(|| Status::invalid_argument(format!("{TASKS_PER_WORKER}: must be a number above 0")))
}

#[expect(clippy::cast_possible_truncation, reason = "at most a billion")]
fn whole(number: f64) -> i64 {
    number.round() as i64
}

fn unavailable(blind: &Blind) -> Status {
    debug!(error = blind as &dyn std::error::Error, "the scaler cannot be answered");
    Status::unavailable(blind.to_string())
}

#[cfg(test)]
mod tests;
