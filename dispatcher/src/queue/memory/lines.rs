//! The waiting tasks of one band: a line for each tenant, and the order in which tenants are served.
//!
//! Turns are virtual time: serving a tenant costs it one turn, and whoever comes new begins at the band's present time. So a
//! tenant with a million tasks delays another's ten by one task each, waiting earns no credit, and being away costs none.
//! It must not know leases, states or real time.

use std::collections::{BTreeMap, BTreeSet};

use crate::queue::id::TaskId;

/// One band.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Virtual time: where the newest served tenant began.
    time: u64,
    /// By tenant. An empty line is kept while its turn lies ahead of the band's time.
    lines: BTreeMap<String, Line>,
    /// Tenants with a line that is not empty, by turn, then name.
    ring: BTreeSet<(u64, String)>,
    len: u64,
}

/// The waiting tasks of one tenant.
#[derive(Debug, Default)]
struct Line {
    turn: u64,
    /// Location to place to task.
    waiting: BTreeMap<String, BTreeMap<u64, TaskId>>,
}

impl Lines {
    /// Tasks in the band.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// Puts a task at its place in its tenant's line.
    pub(super) fn insert(&mut self, tenant: &str, location: &str, place: u64, id: TaskId) {
        let line = self.lines.entry(tenant.to_owned()).or_default();
        if line.waiting.is_empty() {
            line.turn = line.turn.max(self.time);
            self.ring.insert((line.turn, tenant.to_owned()));
        }
        let earlier = line.waiting.entry(location.to_owned()).or_default().insert(place, id);
        debug_assert_eq!(earlier, None, "two tasks at one place");
        self.len += 1;
    }

    /// Takes a task out.
    pub(super) fn remove(&mut self, tenant: &str, location: &str, place: u64) {
        let Some(line) = self.lines.get_mut(tenant) else { return };
        let Some(tasks) = line.waiting.get_mut(location) else { return };
        if tasks.remove(&place).is_none() {
            return;
        }
        self.len -= 1;
        if tasks.is_empty() {
            line.waiting.remove(location);
        }
        if line.waiting.is_empty() {
            self.ring.remove(&(line.turn, tenant.to_owned()));
        }
    }

    /// Notes that a task of `tenant` has been taken by its turn.
    pub(super) fn serve(&mut self, tenant: &str) {
        let Some(line) = self.lines.get_mut(tenant) else { return };
        let waits = self.ring.remove(&(line.turn, tenant.to_owned()));
        self.time = self.time.max(line.turn);
        line.turn = self.time + 1;
        if waits {
            self.ring.insert((line.turn, tenant.to_owned()));
        }
    }

    /// The task to serve next, of the tenants that `may_have_more`, at one of `locations`.
    pub(super) fn first(
        &self,
        locations: &[String],
        may_have_more: impl Fn(&str) -> bool,
    ) -> Option<&TaskId> {
        let allowed = self.ring.iter().filter(|(_, tenant)| may_have_more(tenant));
        allowed.filter_map(|(_, tenant)| self.lines.get(tenant)?.first(locations)).next()
    }

    /// Drops what a newcomer would get anyway.
    pub(super) fn forget_absent(&mut self) {
        let time = self.time;
        self.lines.retain(|_, line| !line.waiting.is_empty() || line.turn > time);
    }
}

impl Line {
    fn first(&self, locations: &[String]) -> Option<&TaskId> {
        let heads = locations.iter().filter_map(|location| self.waiting.get(location)?.first_key_value());
        heads.min_by_key(|(place, _)| **place).map(|(_, id)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> TaskId {
        TaskId::from_hash(&format!("{n:032x}")).unwrap()
    }

    fn serve_next(lines: &mut Lines, places: &BTreeMap<TaskId, (&'static str, u64)>) -> Option<&'static str> {
        let (tenant, place) = places[lines.first(&["l".to_owned()], |_| true)?];
        lines.remove(tenant, "l", place);
        lines.serve(tenant);
        Some(tenant)
    }

    #[test]
    fn a_tenant_that_always_waits_with_one_task_gets_every_second_turn_and_not_more() {
        let mut lines = Lines::default();
        let mut places = BTreeMap::new();
        let mut add = |lines: &mut Lines, tenant, place| {
            places.insert(id(place), (tenant, place));
            lines.insert(tenant, "l", place, id(place));
            places.clone()
        };
        for place in 0..10 {
            add(&mut lines, "many", place);
        }
        let mut served = String::new();
        for place in 10..16 {
            let places = add(&mut lines, "few", place);
            for _ in 0..2 {
                served.push_str(&serve_next(&mut lines, &places).unwrap()[..1]);
            }
        }
        assert_eq!(served, "fmfmfmfmfmfm");
    }

    #[test]
    fn what_is_forgotten_makes_no_difference_to_who_comes_back() {
        let mut lines = Lines::default();
        for place in 0..3 {
            lines.insert("a", "l", place, id(place));
        }
        for place in 0..3 {
            lines.remove("a", "l", place);
            lines.serve("a");
        }
        lines.forget_absent();
        assert_eq!((lines.time, lines.lines["a"].turn), (2, 3));
        lines.insert("b", "l", 3, id(3));
        lines.insert("a", "l", 4, id(4));
        assert_eq!(lines.first(&["l".to_owned()], |_| true), Some(&id(3)));
    }
}
