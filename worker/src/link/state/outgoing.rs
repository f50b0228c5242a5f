//! The part of the link that speaks: which message is next.
//!
//! Messages are made when there is room for them and not before, so that what waits is state and never a queue, small things gather
//! into batches under load, and a heartbeat counts from when it really leaves.

use std::time::Instant;

use backhaul_proto::{
    WORKER_PROTOCOL,
    v1::{self, from_worker::Message},
};

use super::{
    super::task::{LeaseKey, Progress},
    Link, Stream,
};

impl Link {
    /// Most entries of one Accepts, by the contract.
    const MOST_ACCEPTS: usize = 1_000;
    /// Most bytes of an upload id, by the contract.
    const MOST_UPLOAD_ID: usize = 1_024;

    /// The next message to send on the stream, if there is one; what it says counts as said. `progress` tells how far a copy is.
    pub fn next_message(
        &mut self,
        now: Instant,
        progress: impl Fn(&LeaseKey) -> Progress,
    ) -> Option<v1::FromWorker> {
        if self.left {
            return None;
        }
        let credit = self.credit();
        let message = match &mut self.stream {
            Stream::None => None,
            Stream::Greeting(greeting) if greeting.hello_sent.is_some() => None,
            Stream::Greeting(greeting) => {
                greeting.hello_sent = Some(now);
                greeting.credit_tasks = credit.tasks;
                greeting.paused.clone_from(&self.paused);
                Some(Message::Hello(self.hello(credit, progress)))
            }
            Stream::Attached(_) => self.attached_message(now, credit, progress),
        };
        message.map(|message| v1::FromWorker { message: Some(message) })
    }

    /// When [`Self::next_message`] will have something that it does not have yet.
    #[must_use]
    pub fn poll_message(&self) -> Option<Instant> {
        match self.stream {
            Stream::Attached(_) => self.outbox.poll_flush(),
            Stream::None | Stream::Greeting(_) => None,
        }
    }

    fn credit(&self) -> v1::Credit {
        let credit = self.settings.credit.advertise(self.outbox.len());
        if self.drain.is_some() { v1::Credit { tasks: 0, ..credit } } else { credit }
    }

    fn attached_message(
        &mut self,
        now: Instant,
        credit: v1::Credit,
        progress: impl Fn(&LeaseKey) -> Progress,
    ) -> Option<Message> {
        let Stream::Attached(attached) = &mut self.stream else { return None };
        if let Some(drain) = &self.drain
            && !attached.draining_said
        {
            attached.draining_said = true;
            // Draining says it all, a Credit of 0 would only repeat it.
            attached.credit_tasks = 0;
            return Some(Message::Draining(v1::Draining { finish_within_ms: drain.left_ms(now) }));
        }
        if !self.accepts.is_empty() {
            let most = self.accepts.len().min(Self::MOST_ACCEPTS);
            return Some(Message::Accepts(v1::Accepts { accepts: self.accepts.drain(..most).collect() }));
        }
        if attached.heartbeat_due.is_some() {
            let seq = attached.heartbeat_sent(now);
            return Some(Message::Heartbeat(v1::Heartbeat { seq, held: self.held_leases(progress) }));
        }
        if attached.paused != self.paused {
            attached.paused.clone_from(&self.paused);
            let locations = self.paused.iter().cloned().collect();
            return Some(Message::Paused(v1::Paused { locations }));
        }
        if attached.credit_tasks != credit.tasks {
            attached.credit_tasks = credit.tasks;
            return Some(Message::Credit(credit));
        }
        if let Some(page) = self.next_page() {
            return Some(Message::Listed(page));
        }
        self.outbox.next_batch(now).map(Message::Results)
    }

    fn hello(&mut self, credit: v1::Credit, progress: impl Fn(&LeaseKey) -> Progress) -> v1::Hello {
        v1::Hello {
            protocol: WORKER_PROTOCOL,
            instance: prost::bytes::Bytes::copy_from_slice(&self.settings.instance),
            worker: self.settings.worker.clone(),
            credit: Some(credit),
            locations: self.settings.locations.iter().cloned().collect(),
            held: self.held_leases(progress),
            unconfirmed: self.outbox.hello(),
            version: self.settings.version.clone(),
            paused: self.paused.iter().cloned().collect(),
            retention_classes: self.settings.retention_classes.iter().cloned().collect(),
            kinds: if self.pages.listing { vec![v1::WorkKind::List.into()] } else { Vec::new() },
        }
    }

    fn held_leases(&self, progress: impl Fn(&LeaseKey) -> Progress) -> Vec<v1::HeldLease> {
        let held = |lease: &LeaseKey| {
            let Progress { bytes_done, bytes_total, steps_done, upload_id } = progress(lease);
            let upload_id = if upload_id.len() > Self::MOST_UPLOAD_ID { String::new() } else { upload_id };
            let task_id = lease.task_id.to_string();
            v1::HeldLease {
                task_id,
                lease: lease.wire_token(),
                bytes_done,
                bytes_total,
                steps_done,
                upload_id,
            }
        };
        self.leases.keys().map(held).collect()
    }
}
