//! What waits to be sent to one worker. Messages are composed when they can be sent, not before: what waits longest is
//! batched most, and a newer answer replaces an older one of its kind. Pure.
//!
//! The order is part of the contract: Welcome first, and Confirms before the assignments that use the credit they free.

use std::collections::VecDeque;

use backhaul_proto::v1::{
    Cancel, CancelLease, Confirm, Confirms, Drain, FromDispatcher, LeaseUpdates, ListPage, Welcome,
    from_dispatcher::Message,
};

/// Most Confirms in one message.
const CONFIRMS_PER_MESSAGE: usize = 1_000;

/// Messages that wait, without the assignments.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    welcomed: bool,
    welcome: Option<Welcome>,
    drain: Option<Drain>,
    cancels: Vec<CancelLease>,
    confirms: VecDeque<Confirm>,
    updates: Option<LeaseUpdates>,
    pages: VecDeque<ListPage>,
}

impl Outbox {
    /// Opens the outbox: everything else is held until this is sent.
    pub(crate) fn welcome(&mut self, welcome: Welcome) {
        self.welcome = Some(welcome);
    }

    /// Asks the worker to move. Only the newest counts.
    pub(crate) const fn drain(&mut self, drain: Drain) {
        self.drain = Some(drain);
    }

    /// Asks the worker to stop a copy. Repeats are sent once.
    pub(crate) fn cancel(&mut self, cancel: CancelLease) {
        if !self.cancels.iter().any(|waiting| waiting.lease == cancel.lease) {
            self.cancels.push(cancel);
        }
    }

    /// Answers a result.
    pub(crate) fn confirm(&mut self, confirm: Confirm) {
        self.confirms.push_back(confirm);
    }

    /// Answers a heartbeat. An answer that was not sent yet is replaced: the newer one says more.
    pub(crate) fn updates(&mut self, updates: LeaseUpdates) {
        self.updates = Some(updates);
    }

    /// Asks for a page. Whoever asks sees to it that there are few.
    pub(crate) fn list(&mut self, page: ListPage) {
        self.pages.push_back(page);
    }

    /// Confirms that wait.
    pub(crate) fn waiting_confirms(&self) -> usize {
        self.confirms.len()
    }

    /// True when nothing can be sent now.
    pub(crate) fn is_empty(&self) -> bool {
        self.welcome.is_none()
            && (!self.welcomed
                || (self.drain.is_none()
                    && self.cancels.is_empty()
                    && self.confirms.is_empty()
                    && self.updates.is_none()
                    && self.pages.is_empty()))
    }

    /// Forgets everything: nobody is there to read it.
    pub(crate) fn clear(&mut self) {
        *self = Self { welcomed: true, ..Self::default() };
    }

    /// The next message.
    pub(crate) fn next(&mut self) -> Option<FromDispatcher> {
        if let Some(welcome) = self.welcome.take() {
            self.welcomed = true;
            return Some(message(Message::Welcome(welcome)));
        }
        if !self.welcomed {
            return None;
        }
        if let Some(drain) = self.drain.take() {
            return Some(message(Message::Drain(drain)));
        }
        if !self.cancels.is_empty() {
            return Some(message(Message::Cancel(Cancel { leases: std::mem::take(&mut self.cancels) })));
        }
        if !self.confirms.is_empty() {
            let count = self.confirms.len().min(CONFIRMS_PER_MESSAGE);
            return Some(message(Message::Confirms(Confirms {
                confirms: self.confirms.drain(..count).collect(),
            })));
        }
        if let Some(updates) = self.updates.take() {
            return Some(message(Message::LeaseUpdates(updates)));
        }
        self.pages.pop_front().map(|page| message(Message::List(page)))
    }
}

/// Wraps an arm.
pub(crate) const fn message(message: Message) -> FromDispatcher {
    FromDispatcher { message: Some(message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confirm(n: u32) -> Confirm {
        Confirm { task_id: n.to_string(), ..Confirm::default() }
    }

    #[test]
    fn nothing_leaves_before_welcome() {
        let mut outbox = Outbox::default();
        outbox.confirm(confirm(1));
        outbox.drain(Drain::default());
        assert!(outbox.is_empty());
        assert_eq!(outbox.next(), None);
        outbox.welcome(Welcome::default());
        assert!(matches!(outbox.next().unwrap().message, Some(Message::Welcome(_))));
        assert!(matches!(outbox.next().unwrap().message, Some(Message::Drain(_))));
        assert!(matches!(outbox.next().unwrap().message, Some(Message::Confirms(_))));
        assert!(outbox.is_empty());
    }

    #[test]
    fn what_waits_is_sent_together_within_the_bound() {
        let mut outbox = Outbox { welcomed: true, ..Outbox::default() };
        (0..1_500).for_each(|n| outbox.confirm(confirm(n)));
        let sizes: Vec<usize> = std::iter::from_fn(|| outbox.next())
            .map(|sent| match sent.message {
                Some(Message::Confirms(confirms)) => confirms.confirms.len(),
                other => panic!("unexpected {other:?}"),
            })
            .collect();
        assert_eq!(sizes, [1_000, 500]);
    }

    #[test]
    fn a_newer_answer_to_a_heartbeat_replaces_one_that_was_not_sent() {
        let mut outbox = Outbox { welcomed: true, ..Outbox::default() };
        outbox.updates(LeaseUpdates { seq: 1, updates: Vec::new() });
        outbox.updates(LeaseUpdates { seq: 2, updates: Vec::new() });
        let sent = outbox.next();
        assert!(matches!(sent.unwrap().message, Some(Message::LeaseUpdates(updates)) if updates.seq == 2));
        assert_eq!(outbox.next(), None);
    }
}
