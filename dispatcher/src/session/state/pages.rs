//! Pages that a worker is asked to list. They are no tasks: nothing of them is stored before they are answered, and a stream that ends
//! takes them with it, so that somebody else is asked.

use std::collections::VecDeque;

use super::{
    super::{PageAnswer, handle::MOST_PAGES, wire},
    Session, State,
    worker::Use,
};
use crate::queue::{LeaseToken, walk::PageOrder};

/// Pages of one stream.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// Asked for and not answered.
    asked: Vec<LeaseToken>,
    /// Answers for whoever asked; at most one for each page.
    answers: VecDeque<(LeaseToken, Option<PageAnswer>)>,
}

impl Pages {
    pub(super) fn next_answer(&mut self) -> Option<(LeaseToken, Option<PageAnswer>)> {
        self.answers.pop_front()
    }
}

impl Session {
    /// Asks the worker for a page, if it takes any.
    pub(super) fn on_list(&mut self, lease: LeaseToken, order: &PageOrder) {
        let is_lister = self.worker.as_ref().is_some_and(|worker| worker.lists);
        let is_attached = matches!(self.state, State::Attached { .. }) && !self.takes_no_more;
        if is_lister && is_attached && self.pages.asked.len() < MOST_PAGES {
            self.pages.asked.push(lease);
            self.outbox.list(wire::list_page(lease, order));
        } else {
            self.pages.answers.push_back((lease, None));
        }
    }

    /// A page that was asked for is paid for; any other is a message like those that answer nothing.
    pub(super) fn on_listed(&mut self, lease: LeaseToken, answer: PageAnswer) -> Use {
        let Some(at) = self.pages.asked.iter().position(|asked| *asked == lease) else {
            self.counters.ignored += 1;
            return Use::Charged;
        };
        self.pages.asked.swap_remove(at);
        self.pages.answers.push_back((lease, Some(answer)));
        Use::Earned
    }

    /// Nobody waits for this page any more: its place is free.
    pub(super) fn on_page_given_up(&mut self, lease: LeaseToken) {
        self.pages.asked.retain(|asked| *asked != lease);
    }
}
