//! Who could take tasks: attached sessions, the room they have, and which kinds of worker have just been told that there is
//! nothing for them. Pure: it decides whom to ask for and how much, and makes no call.
//!
//! Sessions with the same locations form a *kind*. After an empty answer a kind is *dry* until something may have changed, and
//! as long as nothing has been found for it one call at a time is made: fifty idle workers cost one look, not fifty. A kind
//! begins with small requests and doubles them while they are filled, so that a handful of tasks is spread over workers and a
//! flood is moved in large calls.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::DispatchStats;
use crate::{
    queue::LeaseRequest,
    session::{Credit, MOST_PAGES, SessionCounters, SessionHandle, SessionId, Standing},
};

/// Tasks asked for when nothing is known about how many there are.
const FIRST_BATCH: u32 = 4;

/// Attached sessions.
#[derive(Debug)]
pub(crate) struct Roster {
    most_per_call: u32,
    seats: HashMap<SessionId, Seat>,
    /// Whose turn it is: served ones go to the end.
    turns: VecDeque<SessionId>,
    kinds: HashMap<Arc<[String]>, Kind>,
    /// Counts up whenever tasks may have come.
    look: u64,
    left: SessionCounters,
}

/// A session.
#[derive(Debug)]
struct Seat {
    handle: SessionHandle,
    standing: Standing,
    locations: Arc<[String]>,
    request: u64,
    asking: Asking,
}

/// Where a session's newest request is.
#[derive(Debug)]
enum Asking {
    /// Answered, and the session has seen the tasks.
    No,
    /// Under way, or its tasks are on their way to the session.
    Yes,
    /// It failed, and must be repeated as it was: its answer may have been lost.
    Again(LeaseRequest),
}

/// Sessions that can copy from the same locations.
#[derive(Debug)]
struct Kind {
    members: usize,
    /// Requests under way.
    asking: usize,
    /// The look that found nothing.
    dry_at: Option<u64>,
    /// The last look that found as much as was asked for.
    found_at: Option<u64>,
    batch: u32,
}

/// A request to make for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Errand {
    /// For whom.
    pub(crate) session: SessionId,
    /// What to ask.
    pub(crate) request: LeaseRequest,
    kind: Arc<[String]>,
    look: u64,
}

/// What came of an errand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// This many tasks, on their way to the session.
    Tasks(usize),
    /// The session had gone when they came.
    Nobody,
    /// The queue could not be asked.
    Failed,
}

impl Roster {
    /// An empty roster. No call asks for more than `most_per_call` tasks.
    pub(crate) fn new(most_per_call: u32) -> Self {
        Self {
            most_per_call,
            seats: HashMap::new(),
            turns: VecDeque::new(),
            kinds: HashMap::new(),
            look: 0,
            left: SessionCounters::default(),
        }
    }

    /// Enters a session. Answers the older sessions of the same worker instance.
    pub(crate) fn attach(&mut self, handle: SessionHandle) -> Vec<SessionHandle> {
        let instance = handle.worker().instance;
        let mut older = Vec::new();
        for seat in self.seats.values_mut().filter(|seat| seat.handle.worker().instance == instance) {
            seat.standing.room = Credit::default();
            older.push(seat.handle.clone());
        }
        let locations = Arc::clone(&handle.worker().locations);
        self.join(&locations);
        let id = handle.id().clone();
        let seat = Seat { handle, standing: Standing::default(), locations, request: 0, asking: Asking::No };
        self.turns.push_back(id.clone());
        self.seats.insert(id, seat);
        older
    }

    /// Takes note of where a session stands. True when it may be worth asking for tasks now.
    pub(crate) fn stand(&mut self, session: &SessionId, standing: Standing) -> bool {
        let Some(seat) = self.seats.get_mut(session) else { return false };
        if matches!(seat.asking, Asking::Yes) && seat.request == standing.offers_seen {
            seat.asking = Asking::No;
        }
        let has_room = standing.room.tasks > 0;
        let moved = standing.locations.clone().filter(|locations| *locations != seat.locations);
        seat.standing = standing;
        if let Some(locations) = moved {
            let before = std::mem::replace(&mut seat.locations, Arc::clone(&locations));
            self.part(&before);
            self.join(&locations);
        }
        has_room
    }

    /// Removes a session.
    pub(crate) fn leave(&mut self, session: &SessionId, counters: SessionCounters) {
        self.left = self.left.plus(counters);
        if let Some(seat) = self.seats.remove(session) {
            self.turns.retain(|id| id != session);
            self.part(&seat.locations);
        }
    }

    /// Tasks may have come: every kind is worth a look.
    pub(crate) const fn look_again(&mut self) {
        self.look += 1;
    }

    /// True when any session has room, so that a task that nobody told of could be handed out.
    pub(crate) fn has_room(&self) -> bool {
        self.seats.values().any(Seat::has_room)
    }

    /// The next request to make; `None` when there is no room, or nothing to expect.
    pub(crate) fn next_errand(&mut self) -> Option<Errand> {
        for _ in 0..self.turns.len() {
            let id = self.turns.pop_front()?;
            self.turns.push_back(id.clone());
            if let Some(errand) = self.errand_for(&id) {
                return Some(errand);
            }
        }
        None
    }

    fn errand_for(&mut self, id: &SessionId) -> Option<Errand> {
        let seat = self.seats.get_mut(id)?;
        let kind = self.kinds.get_mut(&seat.locations)?;
        if matches!(seat.asking, Asking::Yes) || !kind.is_worth_asking(self.look) {
            return None;
        }
        let request = match std::mem::replace(&mut seat.asking, Asking::Yes) {
            Asking::Again(request) => request,
            was @ (Asking::No | Asking::Yes) => {
                if !seat.has_room() {
                    seat.asking = was;
                    return None;
                }
                seat.request += 1;
                let room = seat.standing.room;
                LeaseRequest {
                    session: id.as_str().to_owned(),
                    request: seat.request,
                    worker: seat.handle.worker().name.to_string(),
                    max_tasks: room.tasks.min(kind.batch).min(self.most_per_call),
                    max_bytes: room.bytes,
                    locations: Arc::clone(&seat.locations),
                }
            }
        };
        kind.asking += 1;
        Some(Errand { session: id.clone(), request, kind: Arc::clone(&seat.locations), look: self.look })
    }

    /// Takes note of what came of an errand.
    pub(crate) fn report(&mut self, errand: Errand, found: Found) {
        let Errand { session, request, kind, look } = errand;
        if let Some(kind) = self.kinds.get_mut(&kind) {
            kind.asking = kind.asking.saturating_sub(1);
            match found {
                Found::Tasks(0) => {
                    kind.dry_at = Some(look);
                    kind.batch = FIRST_BATCH;
                }
                Found::Tasks(count) => {
                    // Only a full answer says that there is more, enough for others to ask at the same time.
                    if u32::try_from(count).is_ok_and(|count| count >= request.max_tasks) {
                        kind.found_at = Some(self.look);
                        if request.max_tasks >= kind.batch {
                            kind.batch = kind.batch.saturating_mul(2).min(self.most_per_call);
                        }
                    }
                }
                Found::Nobody | Found::Failed => {}
            }
        }
        let Some(seat) = self.seats.get_mut(&session) else { return };
        match found {
            Found::Tasks(0) => seat.asking = Asking::No,
            // The session has to see them first; its next standing says so. It may have done so already.
            Found::Tasks(_) if seat.standing.offers_seen < request.request => seat.asking = Asking::Yes,
            Found::Tasks(_) | Found::Nobody => seat.asking = Asking::No,
            Found::Failed => seat.asking = Asking::Again(request),
        }
    }

    /// The handle of a session.
    pub(crate) fn handle(&self, session: &str) -> Option<&SessionHandle> {
        self.seats.get(session).map(|seat| &seat.handle)
    }

    /// The handle of the session of an errand.
    pub(crate) fn handle_of(&self, errand: &Errand) -> Option<&SessionHandle> {
        self.seats.get(&errand.session).map(|seat| &seat.handle)
    }

    /// All sessions.
    pub(crate) fn handles(&self) -> Vec<SessionHandle> {
        self.turns.iter().filter_map(|id| self.seats.get(id)).map(|seat| seat.handle.clone()).collect()
    }

    /// The session to list a page of that location: of those that can, one that lists fewest.
    pub(crate) fn lister(&self, location: &str) -> Option<SessionHandle> {
        let can_list = |seat: &&Seat| {
            seat.handle.worker().lists
                && !seat.standing.draining
                && seat.handle.pages_asked() < MOST_PAGES
                && seat.locations.iter().any(|known| known == location)
        };
        let idlest = self.seats.values().filter(can_list).min_by_key(|seat| seat.handle.pages_asked());
        idlest.map(|seat| seat.handle.clone())
    }

    /// Sums over all sessions.
    pub(crate) fn stats(&self) -> DispatchStats {
        let mut stats = DispatchStats { counters: self.left, ..DispatchStats::default() };
        for seat in self.seats.values() {
            stats.sessions += 1;
            stats.draining += usize::from(seat.standing.draining);
            stats.free_tasks += u64::from(seat.standing.room.tasks);
            stats.free_bytes = stats.free_bytes.saturating_add(seat.standing.room.bytes);
            stats.outstanding_tasks += u64::from(seat.standing.outstanding);
            stats.outstanding_bytes = stats.outstanding_bytes.saturating_add(seat.standing.outstanding_bytes);
            stats.counters = stats.counters.plus(seat.standing.counters);
        }
        stats
    }

    fn join(&mut self, locations: &Arc<[String]>) {
        let kind = self.kinds.entry(Arc::clone(locations)).or_insert(Kind {
            members: 0,
            asking: 0,
            dry_at: None,
            found_at: None,
            batch: FIRST_BATCH.min(self.most_per_call),
        });
        kind.members += 1;
    }

    fn part(&mut self, locations: &Arc<[String]>) {
        if let Some(kind) = self.kinds.get_mut(locations) {
            kind.members -= 1;
            if kind.members == 0 {
                self.kinds.remove(locations);
            }
        }
    }
}

impl Seat {
    fn has_room(&self) -> bool {
        self.standing.room.tasks > 0 && !self.locations.is_empty()
    }
}

impl Kind {
    fn is_worth_asking(&self, look: u64) -> bool {
        self.dry_at != Some(look) && (self.asking == 0 || self.found_at == Some(look))
    }
}

#[cfg(test)]
mod tests;
