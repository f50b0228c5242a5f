//! The words of entries: who somebody is, what a task is, what became of it. Pure.

use backhaul_proto::v1 as pb;
use backhaul_runtime::audit::Fields;
use prost::Message as _;

use crate::{
    grpc::{access::Role, identity::Principal},
    queue::{
        CancelOutcome, FailureClass, LeasedTask, NewTask, ObjectRef, Outcome, QueueError, RequeueOutcome,
        SettleOutcome, SubmitOutcome, Submitted, TaskId, TaskState,
    },
};

/// As much of a text as that.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// Somebody who has proved who they are. Without proof everybody is both: `is_worker` says which counts.
pub(super) fn who(principal: &Principal, is_worker: bool) -> Fields {
    let mut fields = Fields::new();
    fields.text("name", &principal.name);
    match &principal.caller {
        Some(caller) if !(is_worker && principal.worker.is_some()) => {
            fields.text("role", role(caller.role())).text("tenant", caller.tenant());
        }
        Some(_) | None if principal.worker.is_some() => {
            fields.text("role", role(Role::Worker));
        }
        Some(_) | None => {
            fields.text("role", "none");
        }
    }
    fields
}

const fn role(role: Role) -> &'static str {
    match role {
        Role::Submitter => "submitter",
        Role::Reader => "reader",
        Role::Operator => "operator",
        Role::Worker => "worker",
        Role::EventSource => "event source",
    }
}

/// A task that is asked for, and whose it is to be: not all are asked for by a call of their tenant.
pub(super) fn task(task: &NewTask) -> Fields {
    let mut fields = object(&task.spec.object);
    fields.text("tenant", &task.spec.tenant);
    fields
}

/// An object.
pub(super) fn object(object: &ObjectRef) -> Fields {
    let ObjectRef { location, bucket, key, version } = object;
    let mut fields = Fields::new();
    fields.text("location", location).text("bucket", bucket).text("key", key);
    fields.text_if_any("version", version.as_deref().unwrap_or_default());
    fields
}

/// A task that was submitted; `None` when nobody waited for the answer.
pub(super) fn submitted(task: &mut Fields, answer: Option<&Result<Submitted, QueueError>>) {
    match answer {
        Some(Ok(submitted)) => {
            let outcome = match submitted.outcome {
                SubmitOutcome::Created => "created",
                SubmitOutcome::Duplicate => "duplicate",
                SubmitOutcome::Coalesced => "coalesced",
                SubmitOutcome::RunsAgain => "runs again",
            };
            task.text("task", submitted.id.as_str()).number("run", submitted.run.into());
            task.text("outcome", outcome);
        }
        Some(Err(error)) => {
            task.text("refused", fault(error));
        }
        None => {
            task.text("outcome", "unknown");
        }
    }
}

/// A cancel.
pub(super) fn cancelled(id: &TaskId, answer: &Result<CancelOutcome, QueueError>) -> Fields {
    let outcome = match answer {
        Ok(CancelOutcome::Cancelled) => "cancelled",
        Ok(CancelOutcome::Stopping { .. }) => "stopping",
        Ok(CancelOutcome::Finished(_)) => "finished",
        Err(error) => fault(error),
    };
    ended(id, outcome)
}

/// A new run of a dead task.
pub(super) fn requeued(id: &TaskId, answer: &Result<RequeueOutcome, QueueError>) -> Fields {
    let (outcome, run) = match answer {
        Ok(RequeueOutcome::Requeued { run }) => ("requeued", Some(*run)),
        Ok(RequeueOutcome::OtherRun { run, .. }) => ("other run", Some(*run)),
        Ok(RequeueOutcome::NotDead(_)) => ("not dead", None),
        Err(error) => (fault(error), None),
    };
    let mut task = ended(id, outcome);
    if let Some(run) = run {
        task.number("run", run.into());
    }
    task
}

/// A task that was given to a worker.
pub(super) fn leased(leased: &LeasedTask) -> Fields {
    let mut task = ended(&leased.id, "leased");
    task.text("tenant", &leased.spec.tenant).all_of(&object(&leased.spec.object));
    task
}

/// A report: what it said, before the queue has looked at it.
pub(super) fn report(id: &TaskId, outcome: &Outcome) -> Fields {
    let mut task = Fields::new();
    task.text("task", id.as_str());
    match outcome {
        Outcome::Done { receipt } => {
            task.text("report", "done");
            if let Ok(receipt) = pb::Receipt::decode(receipt.clone()) {
                task.object("receipt", &self::receipt(&receipt));
            }
        }
        Outcome::Failed { failure, .. } => {
            let class = match failure.class {
                FailureClass::Retry => "retry",
                FailureClass::Throttled => "throttled",
                FailureClass::Permanent => "permanent",
                FailureClass::SourceGone => "source gone",
            };
            task.text("report", "failed").text("class", class).text("failure", &failure.code);
        }
        Outcome::NotSent { .. } => {
            task.text("report", "not sent");
        }
        Outcome::HandedBack { .. } => {
            task.text("report", "handed back");
        }
        Outcome::Cancelled => {
            task.text("report", "stopped");
        }
    }
    task
}

/// What became of a report.
pub(super) fn settled(task: &mut Fields, answer: Option<&Result<SettleOutcome, QueueError>>) {
    let (decision, outcome) = match answer {
        Some(Ok(SettleOutcome::Stored(state))) => ("allowed", self::state(*state)),
        Some(Ok(SettleOutcome::RunsAgain)) => ("allowed", "runs again"),
        Some(Ok(SettleOutcome::Duplicate)) => ("allowed", "duplicate"),
        Some(Ok(SettleOutcome::Fenced)) => ("refused", "fenced"),
        Some(Ok(SettleOutcome::Superseded)) => ("refused", "superseded"),
        Some(Ok(SettleOutcome::Cancelled)) => ("refused", "cancelled"),
        Some(Ok(SettleOutcome::Gone)) => ("refused", "gone"),
        Some(Err(error)) => ("failed", fault(error)),
        None => ("unknown", "unknown"),
    };
    task.text("decision", decision).text("outcome", outcome);
}

/// A lease that was not kept.
pub(super) fn lost(id: &TaskId) -> Fields {
    let mut task = ended(id, "lost");
    task.text("decision", "refused");
    task
}

fn ended(id: &TaskId, outcome: &str) -> Fields {
    let mut task = Fields::new();
    task.text("task", id.as_str()).text("outcome", outcome);
    task
}

/// What a receipt proves.
fn receipt(receipt: &pb::Receipt) -> Fields {
    let mut fields = Fields::new();
    if let Some(source) = &receipt.source {
        fields.text_if_any("version", &source.version).text_if_any("etag", &source.etag);
    }
    fields.number("bytes", receipt.size_bytes).text("crc64nvme", &format!("{:016x}", receipt.crc64nvme));
    if !receipt.sha256.is_empty() && receipt.sha256.len() <= 32 {
        fields.text("sha256", &hex::encode(&receipt.sha256));
    }
    if let Some(backup) = &receipt.backup {
        let mut place = Fields::new();
        place.text("location", &backup.location).text("bucket", &backup.bucket).text("key", &backup.key);
        place.text_if_any("version", &backup.version);
        fields.object("backup", &place);
    }
    fields
}

const fn state(state: TaskState) -> &'static str {
    match state {
        TaskState::Scheduled => "scheduled",
        TaskState::Pending => "pending",
        TaskState::Working => "working",
        TaskState::Delayed => "delayed",
        TaskState::Done => "done",
        TaskState::Dead => "dead",
        TaskState::Cancelled => "cancelled",
    }
}

const fn fault(error: &QueueError) -> &'static str {
    match error {
        QueueError::Full => "queue full",
        QueueError::TenantFull => "tenant full",
        QueueError::NotFound(_) => "not found",
        QueueError::Unavailable(_) => "queue unavailable",
        QueueError::NotDurable { .. } => "not durable",
        QueueError::Unfit(_) => "queue unfit",
        QueueError::Corrupt { .. } => "damaged record",
        QueueError::Rejected(_) => "queue refused",
    }
}
