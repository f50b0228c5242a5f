//! What is going on in a task of the runtime, so that whoever decides something there need not know for whom: a call with all that was
//! decided in it, a worker's stream, or a body of events.
//!
//! A call is one entry at its end, whatever its end is: an entry that was begun is recorded when it is dropped, so a caller who goes
//! away leaves a trace too. Must not decide anything.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use backhaul_proto::v1 as pb;
use backhaul_runtime::audit::Fields;
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Audit, Refusal, entry};
use crate::{
    events::sources::EventSource,
    grpc::{access, identity::Principal},
    queue::{LeaseRequest, ObjectRef, TaskId},
};

/// Bytes of items that make one line; a call with more becomes several.
const LINE_BYTES: usize = 64 * 1024;
/// Most locations of a worker that are recorded by name, and as much of each.
const MOST_LOCATIONS: usize = 100;
const LOCATION_BYTES: usize = 63;
/// Longest value that is said of a call: longer than any that is taken.
const LONGEST_BYTES: usize = 2048;
/// Longest part of a path or text of a stranger.
const STRANGE_BYTES: usize = 200;

tokio::task_local! {
    static CURRENT: Scope;
}

/// What a task of the runtime works for.
#[derive(Clone)]
enum Scope {
    Call(Arc<Mutex<Collected>>),
    Stream(Arc<Stream>),
}

/// What was said so far of a call, or of a body of events.
#[derive(Debug, Default)]
struct Collected {
    about: Fields,
    /// What `about` has: a call that is tried again says the same again.
    names: Vec<&'static str>,
    tasks: Vec<Fields>,
}

/// A worker's stream.
#[derive(Debug)]
pub(crate) struct Stream {
    audit: Audit,
    /// Who and where.
    who: Fields,
}

/// A call, or a body of events, that is recorded when it ends.
#[derive(Debug)]
pub(crate) struct Call {
    audit: Audit,
    event: &'static str,
    who: Fields,
    collected: Arc<Mutex<Collected>>,
    started: Instant,
    /// Who makes it has proved who they are.
    is_known: bool,
    is_told: bool,
}

/// How a call, or a body of events, ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Told<'a> {
    /// Somebody was not let in.
    NotLetIn(&'a Status),
    /// It was answered.
    Answered(Code, Option<&'a Status>),
    /// Events were answered with a word of ours.
    Events {
        /// What the sender was told.
        answer: &'static str,
        /// The sender was known and all was taken.
        is_taken: bool,
        /// The sender was not known.
        is_stranger: bool,
    },
}

impl Call {
    /// A call of a service. `None` where nothing is recorded.
    pub(crate) fn begin(audit: &Audit, rpc: &str, peer: Option<SocketAddr>) -> Option<Self> {
        let mut call = Self::of(audit, "call", peer)?;
        call.who.text("rpc", entry::cut(rpc, STRANGE_BYTES));
        Some(call)
    }

    /// A body of events. `source` is what its sender called it; nobody has looked yet whether that is true.
    pub(crate) fn events(audit: &Audit, source: &str, peer: Option<SocketAddr>) -> Option<Self> {
        let mut call = Self::of(audit, "events", peer)?;
        call.who.text("source", entry::cut(source, STRANGE_BYTES));
        Some(call)
    }

    fn of(audit: &Audit, event: &'static str, peer: Option<SocketAddr>) -> Option<Self> {
        if !audit.is_on() {
            return None;
        }
        let mut who = Fields::new();
        if let Some(peer) = peer {
            who.text("peer", &peer.to_string());
        }
        let (collected, started) = (Arc::default(), Instant::now());
        Some(Self { audit: audit.clone(), event, who, collected, started, is_known: false, is_told: false })
    }

    /// Who makes the call `rpc`.
    pub(crate) fn made_by(&mut self, principal: &Principal, rpc: &str) {
        self.is_known = true;
        self.who.all_of(&entry::who(principal, rpc == access::CONNECT));
    }

    /// Whose events they are.
    pub(crate) fn of_source(&mut self, source: &EventSource) {
        self.who.text("name", &source.name).text("role", "event source").text("tenant", &source.tenant);
    }

    /// Records nothing of it.
    pub(crate) fn forget(mut self) {
        self.is_told = true;
    }

    /// Does the work; what is decided in it belongs to this call.
    pub(crate) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        CURRENT.scope(Scope::Call(Arc::clone(&self.collected)), work).await
    }

    /// Records how it ended.
    pub(crate) fn end(mut self, told: Told<'_>) {
        self.tell(Some(told));
    }

    fn tell(&mut self, told: Option<Told<'_>>) {
        if std::mem::replace(&mut self.is_told, true) {
            return;
        }
        let Collected { about, tasks, .. } = std::mem::take(&mut *lock(&self.collected));
        let mut head = self.audit.entry(self.event);
        head.all_of(&self.who);
        let refusal = match told {
            Some(Told::NotLetIn(status)) if status.code() == Code::ResourceExhausted => {
                Some(Refusal::OverLimit)
            }
            Some(Told::NotLetIn(_)) if self.is_known => Some(Refusal::OfKnown),
            Some(Told::NotLetIn(_) | Told::Events { is_stranger: true, .. }) => Some(Refusal::OfStranger),
            // Before it was looked at: a queue that is full says so of a task.
            Some(Told::Answered(Code::ResourceExhausted, _)) if tasks.is_empty() => Some(Refusal::OverLimit),
            Some(Told::Answered(..) | Told::Events { .. }) | None => None,
        };
        match told {
            None => {
                head.text("decision", "unknown").text("reason", "the caller went away");
            }
            Some(Told::NotLetIn(status)) => outcome(&mut head, status.code(), Some(status)),
            Some(Told::Answered(code, status)) => outcome(&mut head, code, status),
            Some(Told::Events { answer, is_taken, .. }) => {
                head.text("decision", if is_taken { "allowed" } else { "refused" }).text("answer", answer);
            }
        }
        head.number("ms", u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX));
        head.all_of(&about);
        match refusal {
            Some(kind) => self.audit.record_refusal(kind, head),
            None => record(&self.audit, head, &tasks),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.tell(None);
    }
}

/// Says what the present call is about, such as the id of a task.
pub(crate) fn about(name: &'static str, value: &str) {
    in_call(|call| {
        if call.is_new(name) {
            // It may be said of what nobody has checked yet.
            call.about.text(name, entry::cut(value, LONGEST_BYTES));
        }
    });
}

/// Says how many of something the present call has.
pub(crate) fn number(name: &'static str, count: usize) {
    in_call(|call| {
        if call.is_new(name) {
            call.about.number(name, count as u64);
        }
    });
}

/// Says that what the present call asked for belongs to another tenant, which its caller is not told.
pub(crate) fn foreign(id: &str, owner: &str) {
    in_call(|call| {
        let mut fields = Fields::new();
        fields.text("id", id).text("refused", "another tenant's").text("owner", owner);
        call.tasks.push(fields);
    });
}

/// Says that a task for that object was refused.
pub(crate) fn refused_object(object: &ObjectRef, why: &'static str) {
    in_call(|call| {
        let mut fields = entry::object(object);
        fields.text("refused", why);
        call.tasks.push(fields);
    });
}

impl Stream {
    /// The stream that the present call opens.
    pub(crate) fn open(
        audit: &Audit,
        id: &str,
        peer: Option<SocketAddr>,
        worker: Option<&Principal>,
    ) -> Self {
        about("session", id);
        let mut who = Fields::new();
        who.text("session", id);
        if let Some(peer) = peer {
            who.text("peer", &peer.to_string());
        }
        if let Some(worker) = worker {
            who.all_of(&entry::who(worker, true));
        }
        Self { audit: audit.clone(), who }
    }

    /// Does the work of the stream; what is decided in it is recorded as that of its worker.
    pub(crate) async fn during(self, work: impl Future<Output = ()>) {
        if !self.audit.is_on() {
            return work.await;
        }
        let stream = Arc::new(self);
        CURRENT.scope(Scope::Stream(Arc::clone(&stream)), work).await;
        stream.tell("stream_end", &Fields::new(), &[]);
    }
}

/// Records what a worker has said of itself, and which of its locations it may not have.
pub(crate) fn hello(hello: &pb::Hello, not_granted: &[String]) {
    if let Ok(Scope::Stream(stream)) = CURRENT.try_with(Clone::clone) {
        let mut said = Fields::new();
        said.text("worker", &hello.worker).text("version", &hello.version);
        for (name, count, locations) in [
            ("locations", "locations_in_all", hello.locations.as_slice()),
            ("not_granted", "not_granted_in_all", not_granted),
        ] {
            // Nobody has looked yet whether they are names, or how many there are.
            let shown = locations.iter().take(MOST_LOCATIONS);
            said.texts(name, shown.map(|location| entry::cut(location, LOCATION_BYTES)));
            if locations.len() > MOST_LOCATIONS {
                said.number(count, locations.len() as u64);
            }
        }
        stream.tell("hello", &said, &[]);
    }
}

/// Records that a message was refused.
pub(crate) fn message_refused(message: &'static str) {
    if let Ok(Scope::Stream(stream)) = CURRENT.try_with(Clone::clone) {
        let mut said = Fields::new();
        said.text("message", message).text("decision", "refused");
        stream.tell("message", &said, &[]);
    }
}

/// Records which tasks were given to the worker of a stream.
pub(super) fn leased(audit: &Audit, request: &LeaseRequest, tasks: &[Fields]) {
    let mut head = audit.entry("lease");
    head.text("role", "dispatcher").text("session", &request.session).text("worker", &request.worker);
    record(audit, head, tasks);
}

/// Records what was decided of tasks: as part of the present call, of the present stream, or of what the dispatcher does by itself.
pub(super) fn tasks(audit: &Audit, event: &'static str, tasks: Vec<Fields>) {
    if tasks.is_empty() {
        return;
    }
    match CURRENT.try_with(Clone::clone) {
        Ok(Scope::Call(call)) => {
            lock(&call).tasks.extend(tasks);
        }
        Ok(Scope::Stream(stream)) => stream.tell(event, &Fields::new(), &tasks),
        Err(_) => {
            let mut head = audit.entry(event);
            head.text("role", "dispatcher");
            record(audit, head, &tasks);
        }
    }
}

fn in_call(say: impl FnOnce(&mut Collected)) {
    if let Ok(Scope::Call(call)) = CURRENT.try_with(Clone::clone) {
        say(&mut lock(&call));
    }
}

fn lock(call: &Mutex<Collected>) -> MutexGuard<'_, Collected> {
    call.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collected {
    fn is_new(&mut self, name: &'static str) -> bool {
        let is_new = !self.names.contains(&name);
        if is_new {
            self.names.push(name);
        }
        is_new
    }
}

impl Stream {
    fn tell(&self, event: &'static str, said: &Fields, tasks: &[Fields]) {
        let mut head = self.audit.entry(event);
        head.all_of(&self.who).all_of(said);
        record(&self.audit, head, tasks);
    }
}

/// Records an entry with its tasks, on as many lines as they take.
fn record(audit: &Audit, mut head: Fields, tasks: &[Fields]) {
    if tasks.is_empty() {
        return audit.record(head);
    }
    let mut rest = tasks;
    let mut part = 0;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|task| {
            bytes += task.as_str().len();
            bytes <= LINE_BYTES
        });
        let (now, later) = rest.split_at(fits.count().max(1));
        rest = later;
        part += 1;
        let mut line = if rest.is_empty() { std::mem::take(&mut head) } else { head.clone() };
        if part > 1 || !rest.is_empty() {
            line.number("part", part).flag("more", !rest.is_empty());
        }
        line.objects("tasks", now);
        audit.record(line);
    }
}

/// What came of a call: whether it was allowed, and why not.
fn outcome(head: &mut Fields, code: Code, status: Option<&Status>) {
    let decision = match code {
        Code::Ok => "allowed",
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated => "refused",
        Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => "failed",
    };
    head.text("decision", decision).text("code", &format!("{code:?}"));
    if let Some(status) = status {
        if let Some(info) = status.get_details_error_info() {
            head.text("reason", &info.reason);
        }
        head.text_if_any("message", entry::cut(status.message(), STRANGE_BYTES));
    }
}

/// The id of a task as the present call's subject.
pub(crate) fn about_task(id: &TaskId) {
    about("task", id.as_str());
}
