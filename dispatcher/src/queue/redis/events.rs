//! Reading the logs of all shards as one.
//!
//! A place in the whole is a place in each of the logs, in one text, so that any dispatcher can go on from it. The text comes back
//! from callers: whatever it says is checked. A log that cannot be asked keeps its place in the text, so nothing of it is passed over.

use std::sync::Arc;

use super::{
    Shared, error,
    failures::Failures,
    keys, millis,
    scripts::{Answer, Call, Script},
};
use crate::queue::{EventCursor, Events, QueueError, events::KEPT, id::MAX_SHARDS};

/// Entries that one reading takes of each log. An entry is what one script call has changed.
const ENTRIES: usize = 20;
/// Digits of a task in an entry.
const TASK_DIGITS: usize = 32;

/// A place in the log of one shard: the time and number that the server has given its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(u64, u64);

/// A text that is not a cursor of this queue.
#[derive(Debug, thiserror::Error)]
#[error("not a cursor of this queue")]
struct InvalidCursor;

impl Shared {
    /// [`crate::queue::TaskQueue::events`].
    pub(super) async fn events(&self, cursor: Option<&EventCursor>) -> Result<Events, QueueError> {
        let shards = self.settings.shards;
        let mut places = match cursor {
            Some(cursor) => {
                parse(&cursor.0, shards).ok_or_else(|| QueueError::Rejected(Box::new(InvalidCursor)))?
            }
            None => vec![Place::UNKNOWN; usize::from(shards)],
        };
        let mut events = self.read_logs(&mut places, cursor.is_none()).await?;
        if events.missed {
            // Whoever reads everything anew goes on from where all logs end now.
            let ends = self.read_logs(&mut places, true).await?;
            events = Events { missed: true, ..ends };
        }
        events.next = format(&places);
        Ok(events)
    }

    /// Reads all logs on from these places, or only where they end, and moves the places there.
    async fn read_logs(&self, places: &mut [Place], ends: bool) -> Result<Events, QueueError> {
        let call = |(shard, place): (u16, &Place)| {
            Call::new(Script::Events, shard, [].into_iter())
                .arg(self.now())
                .arg(if ends { String::new() } else { place.format() })
                .arg(millis(KEPT))
                .arg(ENTRIES)
                .into_command()
        };
        let answers = self.send((0..).zip(places.iter()).map(call).collect()).await;
        let mut failures = Failures::default();
        let next = EventCursor(String::new());
        let mut events = Events { changed: Vec::new(), next, missed: false, more: false, incomplete: false };
        for (answer, at) in answers.into_iter().zip(places) {
            let Some(answer) = failures.unless_away(answer)? else { continue };
            let mut answer = Answer::read_plain(answer)?;
            events.missed |= answer.integer()? == 0;
            events.more |= answer.integer()? == 1;
            let place = String::from_utf8(answer.bytes()?).ok().and_then(|text| Place::parse(&text, 10));
            *at = place.ok_or_else(|| error::unexpected("a log gave no place"))?;
            while !answer.is_over() {
                let (tenant, tasks) = (answer.bytes()?, answer.bytes()?);
                let tenant: Arc<str> = String::from_utf8_lossy(&tenant).into();
                let tasks = tasks.chunks(TASK_DIGITS).filter_map(keys::id);
                events.changed.extend(tasks.map(|task| (Arc::clone(&tenant), task)));
            }
        }
        events.incomplete = failures.any();
        failures.unless_all_failed(events)
    }
}

impl Place {
    /// In no log is there such an entry: reading on from it tells that changes are missed.
    const UNKNOWN: Self = Self(0, 0);

    /// As the server writes it.
    fn format(self) -> String {
        format!("{}-{}", self.0, self.1)
    }

    fn parse(text: &str, radix: u32) -> Option<Self> {
        let (ms, number) = text.split_once('-')?;
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !digits(ms) || !digits(number) {
            return None;
        }
        Some(Self(u64::from_str_radix(ms, radix).ok()?, u64::from_str_radix(number, radix).ok()?))
    }
}

fn format(places: &[Place]) -> EventCursor {
    let texts: Vec<String> = places.iter().map(|Place(ms, number)| format!("{ms:x}-{number:x}")).collect();
    EventCursor(texts.join(","))
}

fn parse(text: &str, shards: u16) -> Option<Vec<Place>> {
    let places: Vec<Place> = text.split(',').map(|place| Place::parse(place, 16)).collect::<Option<_>>()?;
    let shards = usize::from(shards);
    match places.len() {
        count if count == shards => Some(places),
        // From when there was another number of shards: what has changed since cannot be told.
        count if count <= usize::from(MAX_SHARDS) => Some(vec![Place::UNKNOWN; shards]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::events::MAX_CURSOR_BYTES;

    #[test]
    fn a_cursor_comes_back_as_it_was_given_and_nothing_else_is_one() {
        let places = [Place(1_800_000_000_000, 0), Place(7, 12)];
        let cursor = format(&places);
        assert_eq!(parse(&cursor.0, 2), Some(places.to_vec()));
        let too_many = vec!["1-1"; usize::from(MAX_SHARDS) + 1].join(",");
        for bad in ["", "1-1,", "1-1,2", "1-1,2-x", "1-1,+2-1", "1-1,2--1", &too_many] {
            assert_eq!(parse(bad, 2), None, "{bad}");
        }
    }

    #[test]
    fn a_cursor_of_another_number_of_shards_is_one_from_which_everything_is_missed() {
        for other in ["1-1", "1-1,2-1,3-1"] {
            assert_eq!(parse(other, 2), Some(vec![Place::UNKNOWN; 2]));
        }
    }

    #[test]
    fn the_cursor_of_the_most_shards_stays_within_its_bound() {
        let places = vec![Place(u64::MAX >> 16, u64::from(u16::MAX)); usize::from(MAX_SHARDS)];
        assert!(format(&places).0.len() <= MAX_CURSOR_BYTES);
    }
}
