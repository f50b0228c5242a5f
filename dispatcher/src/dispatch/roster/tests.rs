//! Whom the roster asks for, and when it does not ask.

use super::*;
use crate::session::{Credit, WorkerInfo};

/// A roster with sessions named by one letter. Each is of instance and worker name of that letter.
struct Rig {
    roster: Roster,
    ids: Vec<(char, SessionId)>,
    // Keeps the sessions' ends of the handles alive.
    _inboxes: Vec<Box<dyn std::any::Any>>,
}

impl Rig {
    fn new(sessions: &str) -> Self {
        let mut rig = Self { roster: Roster::new(256), ids: Vec::new(), _inboxes: Vec::new() };
        for name in sessions.chars() {
            rig.attach(name, &["uploads"]);
        }
        rig
    }

    fn attach(&mut self, name: char, locations: &[&str]) -> Vec<SessionHandle> {
        let locations = locations.iter().map(|name| (*name).to_owned()).collect();
        let mut instance = [0; 16];
        name.encode_utf8(&mut instance);
        let worker = WorkerInfo {
            instance,
            name: name.to_string().into(),
            version: String::new(),
            locations,
            lists: false,
            retention_classes: [].into(),
        };
        let id = SessionId::random().unwrap();
        let (handle, inbox) = SessionHandle::new(id.clone(), Arc::new(worker));
        self.ids.push((name, id));
        self._inboxes.push(Box::new(inbox));
        self.roster.attach(handle)
    }

    fn id(&self, name: char) -> SessionId {
        self.ids.iter().rev().find(|(known, _)| *known == name).unwrap().1.clone()
    }

    fn room(&mut self, name: char, tasks: u32, offers_seen: u64) {
        let room = Credit { tasks, bytes: 1 << 30 };
        let id = self.id(name);
        self.roster.stand(&id, Standing { room, offers_seen, ..Standing::default() });
    }

    /// All errands that can be made now, as "session:tasks".
    fn errands(&mut self) -> Vec<Errand> {
        std::iter::from_fn(|| self.roster.next_errand()).collect()
    }

    fn shown(&self, errands: &[Errand]) -> Vec<String> {
        errands
            .iter()
            .map(|errand| {
                let name = self.ids.iter().find(|(_, id)| *id == errand.session).unwrap().0;
                format!("{name}:{}", errand.request.max_tasks)
            })
            .collect()
    }

    /// The only errand there is.
    fn errand(&mut self) -> Errand {
        let mut errands = self.errands();
        assert_eq!(errands.len(), 1, "{errands:?}");
        errands.remove(0)
    }
}

#[test]
fn nobody_is_asked_for_without_room() {
    let mut rig = Rig::new("ab");
    assert!(!rig.roster.has_room());
    assert_eq!(rig.errands(), []);
    rig.room('b', 3, 0);
    assert!(rig.roster.has_room());
    let errands = rig.errands();
    assert_eq!(rig.shown(&errands), ["b:3"]);
}

#[test]
fn as_long_as_nothing_is_found_one_asks_for_all() {
    let mut rig = Rig::new("abc");
    for name in ['a', 'b', 'c'] {
        rig.room(name, 100, 0);
    }
    let probe = rig.errand();
    rig.roster.report(probe, Found::Tasks(0));
    assert_eq!(rig.errands(), [], "dry until something may have come");
    rig.roster.look_again();
    rig.errand();
}

#[test]
fn when_there_is_plenty_all_ask_and_the_batches_grow() {
    let mut rig = Rig::new("abc");
    for name in ['a', 'b', 'c'] {
        rig.room(name, 1_000, 0);
    }
    let probe = rig.errand();
    assert_eq!(rig.shown(std::slice::from_ref(&probe)), ["a:4"]);
    rig.roster.report(probe, Found::Tasks(4));
    let errands = rig.errands();
    assert_eq!(rig.shown(&errands), ["b:8", "c:8"], "a has not seen its tasks yet");
    let mut seen = 1;
    rig.room('a', 1_000, seen);
    let mut largest = 0;
    for errand in errands {
        rig.roster.report(errand, Found::Tasks(8));
    }
    for _ in 0..10 {
        for errand in rig.errands() {
            largest = largest.max(errand.request.max_tasks);
            let count = usize::try_from(errand.request.max_tasks).unwrap();
            rig.roster.report(errand, Found::Tasks(count));
        }
        seen += 1;
        for name in ['a', 'b', 'c'] {
            rig.room(name, 1_000, seen);
        }
    }
    assert_eq!(largest, 256);
}

#[test]
fn a_short_answer_does_not_call_everybody() {
    let mut rig = Rig::new("abc");
    for name in ['a', 'b', 'c'] {
        rig.room(name, 100, 0);
    }
    let probe = rig.errand();
    rig.roster.report(probe, Found::Tasks(1));
    rig.errand();
}

#[test]
fn a_session_is_not_asked_for_again_before_it_has_seen_its_tasks() {
    let mut rig = Rig::new("a");
    rig.room('a', 10, 0);
    let errand = rig.errand();
    assert_eq!(errand.request.request, 1);
    rig.room('a', 10, 0);
    assert_eq!(rig.errands(), [], "under way");
    rig.roster.report(errand, Found::Tasks(4));
    rig.room('a', 10, 0);
    assert_eq!(rig.errands(), [], "on their way");
    rig.room('a', 6, 1);
    assert_eq!(rig.errand().request.request, 2);
}

#[test]
fn a_session_may_see_its_tasks_before_the_errand_is_reported() {
    let mut rig = Rig::new("a");
    rig.room('a', 10, 0);
    let errand = rig.errand();
    rig.room('a', 6, 1);
    rig.roster.report(errand, Found::Tasks(4));
    assert_eq!(rig.errand().request.request, 2);
}

#[test]
fn a_failed_request_is_repeated_as_it_was() {
    let mut rig = Rig::new("a");
    rig.room('a', 10, 0);
    let errand = rig.errand();
    let request = errand.request.clone();
    rig.roster.report(errand, Found::Failed);
    rig.room('a', 3, 0);
    assert_eq!(rig.errand().request, request);
}

#[test]
fn an_empty_answer_from_before_a_hint_does_not_hide_what_the_hint_told_of() {
    let mut rig = Rig::new("a");
    rig.room('a', 10, 0);
    let errand = rig.errand();
    rig.roster.look_again();
    rig.roster.report(errand, Found::Tasks(0));
    rig.errand();
}

#[test]
fn kinds_of_workers_run_dry_apart() {
    let mut rig = Rig::new("a");
    rig.attach('b', &["archive"]);
    rig.attach('n', &[]);
    for name in ['a', 'b', 'n'] {
        rig.room(name, 10, 0);
    }
    let errands = rig.errands();
    assert_eq!(rig.shown(&errands), ["a:4", "b:4"], "a worker without locations can copy nothing");
    let mut errands = errands.into_iter();
    rig.roster.report(errands.next().unwrap(), Found::Tasks(0));
    rig.roster.report(errands.next().unwrap(), Found::Tasks(4));
    rig.room('b', 10, 1);
    let errands = rig.errands();
    assert_eq!(rig.shown(&errands), ["b:8"]);
}

#[test]
fn a_worker_that_loses_a_location_changes_its_kind() {
    let mut rig = Rig::new("");
    rig.attach('a', &["archive", "uploads"]);
    let room = Credit { tasks: 1, bytes: 1 };
    let locations: Option<Arc<[String]>> = Some(Arc::new(["archive".to_owned()]));
    let id = rig.id('a');
    rig.roster.stand(&id, Standing { room, locations, ..Standing::default() });
    assert_eq!(*rig.errand().request.locations, ["archive".to_owned()]);
    assert_eq!(rig.roster.kinds.len(), 1);
}

#[test]
fn turns_go_round() {
    let mut rig = Rig::new("abc");
    let mut asked = Vec::new();
    for round in 0..6 {
        for name in ['a', 'b', 'c'] {
            rig.room(name, 1, round);
        }
        let errand = rig.errand();
        asked.extend(rig.shown(std::slice::from_ref(&errand)));
        rig.roster.report(errand, Found::Nobody);
    }
    assert_eq!(asked, ["a:1", "b:1", "c:1", "a:1", "b:1", "c:1"]);
}

#[test]
fn a_newer_stream_of_an_instance_names_the_older_ones_and_takes_their_room() {
    let mut rig = Rig::new("ab");
    rig.room('a', 10, 0);
    let old = rig.id('a');
    let older = rig.attach('a', &["uploads"]);
    assert_eq!(older.iter().map(|handle| handle.id().clone()).collect::<Vec<_>>(), [old]);
    assert!(!rig.roster.has_room());
}

#[test]
fn who_leaves_is_forgotten_and_counted() {
    let mut rig = Rig::new("a");
    rig.room('a', 10, 0);
    let errand = rig.errand();
    let counters = SessionCounters { assigned: 7, ..SessionCounters::default() };
    let id = rig.id('a');
    rig.roster.leave(&id, counters);
    rig.roster.report(errand, Found::Nobody);
    assert_eq!(rig.errands(), []);
    assert_eq!((rig.roster.kinds.len(), rig.roster.turns.len()), (0, 0));
    let stats = rig.roster.stats();
    assert_eq!((stats.sessions, stats.counters.assigned), (0, 7));
}
