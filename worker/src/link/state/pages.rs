//! Pages that the dispatcher of this stream wants listed: a few at a time, each answered once, all forgotten with the stream.

use std::collections::VecDeque;

use backhaul_proto::v1;
use prost::bytes::Bytes;

use super::{super::pages::refusal, Effect, Link};

/// Pages that may be unanswered on a stream, by the contract.
const MOST: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Pages {
    /// This worker lists pages at all.
    pub(super) listing: bool,
    /// Tokens of pages that are being listed.
    asked: Vec<Bytes>,
    /// Answers that wait to be sent.
    answers: VecDeque<v1::ListedPage>,
}

impl Link {
    /// Says in each greeting that this worker lists pages.
    #[must_use]
    pub fn listing_pages(mut self) -> Self {
        self.pages.listing = true;
        self
    }

    pub(super) fn list_asked(&mut self, page: Box<v1::ListPage>) {
        let known = |location: &str| self.settings.locations.contains(location);
        let location = page.prefix.as_ref().map(|prefix| prefix.location.as_str()).unwrap_or_default();
        let refused = if !self.pages.listing || !known(location) {
            Some("unknown_location")
        } else if self.drain.is_some() {
            Some("draining")
        } else if self.paused.contains(location) {
            Some("location_paused")
        } else if self.pages.asked.len() >= MOST {
            Some("busy")
        } else {
            None
        };
        match refused {
            None => {
                self.pages.asked.push(page.lease.clone());
                self.effects.push_back(Effect::List(page));
            }
            // The dispatcher is told by other ways why; here only that it is to ask again, or somebody else.
            Some(code) if self.pages.answers.len() < MOST => {
                let answer = refusal(v1::FailureClass::Throttled, code);
                self.pages.answers.push_back(v1::ListedPage { lease: page.lease, ..answer });
            }
            Some(_) => self.ignored += 1,
        }
    }

    pub(super) fn listed(&mut self, page: v1::ListedPage) {
        match self.pages.asked.iter().position(|lease| *lease == page.lease) {
            Some(at) => {
                self.pages.asked.swap_remove(at);
                self.pages.answers.push_back(page);
            }
            None => self.ignored += 1,
        }
    }

    pub(super) fn next_page(&mut self) -> Option<v1::ListedPage> {
        self.pages.answers.pop_front()
    }

    /// The stream is over, and with it whoever waits for pages.
    pub(super) fn forget_pages(&mut self) {
        self.pages.answers.clear();
        if !self.pages.asked.is_empty() {
            self.pages.asked.clear();
            self.effects.push_back(Effect::DropPages);
        }
    }
}
