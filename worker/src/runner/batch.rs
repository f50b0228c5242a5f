//! Which of the waiting tasks start next.
//!
//! Tasks are partitioned into batches of one origin and one size class: small objects are started many at once, so that one origin's
//! connections are reused and their results travel together; large ones start alone, because each is a crowd of parts by itself.
//! Urgent ones go first, and origins take turns, so that a slow one does not hold up the others. Pure: starts nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use backhaul_proto::v1::Priority;

use super::slots::{SizeClass, Slots};
use crate::link::{Assignment, LeaseKey};

/// Most small objects in one batch.
const BATCH_TASKS: usize = 100;

/// Tasks that start together; each has room in the slots.
#[derive(Debug, PartialEq)]
pub(crate) struct Batch {
    /// Location that all of them are read from.
    pub(crate) origin: String,
    /// How all of them are copied.
    pub(crate) class: SizeClass,
    /// The tasks and what each was charged.
    pub(crate) tasks: Vec<(Assignment, u64)>,
}

/// Tasks that wait for room. Bounded by the credit that let them in.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    small: Lanes,
    large: Lanes,
}

/// Waiting tasks of one size class.
#[derive(Debug, Default)]
struct Lanes {
    /// By band, the urgent first, and origin; no lane is empty.
    lanes: BTreeMap<(Band, String), VecDeque<Assignment>>,
    /// The origin served last; the one after it is next.
    served: String,
}

/// A priority, the urgent one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Band {
    High,
    Normal,
    Low,
}

impl Waiting {
    /// Lets a task wait, behind those of its band, origin and class.
    pub(crate) fn push(&mut self, class: SizeClass, assignment: Assignment) {
        let lane = (Band::from(assignment.priority), assignment.object.location.clone());
        self.class_mut(class).lanes.entry(lane).or_default().push_back(assignment);
    }

    /// Takes a waiting task out.
    pub(crate) fn remove(&mut self, lease: &LeaseKey) -> Option<Assignment> {
        self.small.remove(lease).or_else(|| self.large.remove(lease))
    }

    /// Takes the waiting tasks of some origins out.
    pub(crate) fn take_of(&mut self, origins: &BTreeSet<String>) -> Vec<Assignment> {
        let of = |lanes: &mut Lanes| {
            lanes
                .lanes
                .extract_if(.., |(_, origin), _| origins.contains(origin))
                .flat_map(|(_, l)| l)
                .collect::<Vec<_>>()
        };
        let mut taken = of(&mut self.small);
        taken.append(&mut of(&mut self.large));
        taken
    }

    /// Takes all waiting tasks out.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Assignment> + use<> {
        let (small, large) = (std::mem::take(&mut self.small), std::mem::take(&mut self.large));
        small.lanes.into_values().chain(large.lanes.into_values()).flatten()
    }

    /// The next batch, with room taken for each of its tasks; `None` while nothing fits.
    pub(crate) fn next_batch(&mut self, slots: &mut Slots) -> Option<Batch> {
        let first = match (self.small.urgent(), self.large.urgent()) {
            (Some(small), Some(large)) if large < small => SizeClass::Large,
            (None, Some(_)) => SizeClass::Large,
            (Some(_), _) => SizeClass::Small,
            (None, None) => return None,
        };
        let second = match first {
            SizeClass::Small => SizeClass::Large,
            SizeClass::Large => SizeClass::Small,
        };
        self.batch_of(first, second, slots).or_else(|| self.batch_of(second, first, slots))
    }

    fn batch_of(&mut self, class: SizeClass, other: SizeClass, slots: &mut Slots) -> Option<Batch> {
        let other_waits = self.class_mut(other).urgent().is_some();
        let most = match class {
            SizeClass::Small => BATCH_TASKS,
            SizeClass::Large => 1,
        };
        self.class_mut(class).take(class, most, other_waits, slots)
    }

    const fn class_mut(&mut self, class: SizeClass) -> &mut Lanes {
        match class {
            SizeClass::Small => &mut self.small,
            SizeClass::Large => &mut self.large,
        }
    }
}

impl Lanes {
    /// The most urgent band that waits.
    fn urgent(&self) -> Option<Band> {
        self.lanes.keys().next().map(|(band, _)| *band)
    }

    /// Up to `most` tasks of the lane whose turn it is. Tasks keep their order: when the first does not fit, none is taken.
    fn take(&mut self, class: SizeClass, most: usize, other_waits: bool, slots: &mut Slots) -> Option<Batch> {
        let band = self.urgent()?;
        let of_band = || self.lanes.keys().filter(|(b, _)| *b == band).map(|(_, origin)| origin);
        let origin = of_band().find(|origin| **origin > self.served).or_else(|| of_band().next())?.clone();
        let lane_key = (band, origin.clone());
        let lane = self.lanes.get_mut(&lane_key)?;
        let mut tasks = Vec::new();
        while tasks.len() < most
            && let Some(head) = lane.front()
        {
            let cost = slots.budget().cost(head.size_hint_bytes);
            if !slots.take(class, cost, other_waits) {
                break;
            }
            tasks.extend(lane.pop_front().map(|task| (task, cost)));
        }
        if lane.is_empty() {
            self.lanes.remove(&lane_key);
        }
        if tasks.is_empty() {
            return None;
        }
        self.served.clone_from(&origin);
        Some(Batch { origin, class, tasks })
    }

    fn remove(&mut self, lease: &LeaseKey) -> Option<Assignment> {
        let (key, at) = self.lanes.iter().find_map(|(key, lane)| {
            lane.iter().position(|task| task.lease == *lease).map(|at| (key.clone(), at))
        })?;
        let lane = self.lanes.get_mut(&key)?;
        let removed = lane.remove(at);
        if lane.is_empty() {
            self.lanes.remove(&key);
        }
        removed
    }
}

impl From<Priority> for Band {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::High => Self::High,
            Priority::Normal | Priority::Unspecified => Self::Normal,
            Priority::Low => Self::Low,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use backhaul_proto::v1;
    use proptest::prelude::*;

    use super::*;
    use crate::runner::slots::Budget;

    const BUDGET: Budget = Budget { tasks: 64, memory_bytes: 1000, part_bytes: 100, parts_in_flight: 4 };

    fn task(id: &str, origin: &str, priority: Priority, size: Option<u64>) -> Assignment {
        Assignment {
            lease: LeaseKey::from_wire(id, &[1; 16]).expect("it is well formed"),
            lease_for: Duration::from_secs(30),
            object: v1::ObjectRef { location: origin.into(), ..Default::default() },
            tenant: String::new(),
            attempt: 1,
            verify: v1::VerifyLevel::Unspecified,
            size_hint_bytes: size,
            resume_upload_id: String::new(),
            retention_class: String::new(),
            traceparent: String::new(),
            priority,
        }
    }

    fn waiting(tasks: impl IntoIterator<Item = Assignment>) -> Waiting {
        let mut waiting = Waiting::default();
        for task in tasks {
            waiting.push(BUDGET.class(task.size_hint_bytes), task);
        }
        waiting
    }

    fn ids(batch: Option<Batch>) -> Vec<String> {
        batch.map_or_else(Vec::new, |b| b.tasks.iter().map(|(t, _)| t.lease.task_id.to_string()).collect())
    }

    #[test]
    fn small_objects_of_one_origin_start_together_and_large_ones_alone() {
        let normal = Priority::Normal;
        let mut waiting = waiting([
            task("s1", "a", normal, Some(1)),
            task("l1", "a", normal, Some(500)),
            task("s2", "b", normal, None),
            task("s3", "a", normal, Some(100)),
            task("l2", "a", normal, Some(101)),
        ]);
        let mut slots = Slots::new(BUDGET);
        assert_eq!(ids(waiting.next_batch(&mut slots)), ["s1", "s3"]);
        assert_eq!(ids(waiting.next_batch(&mut slots)), ["s2"]);
        assert_eq!(ids(waiting.next_batch(&mut slots)), ["l1"]);
        assert_eq!(ids(waiting.next_batch(&mut slots)), ["l2"]);
        assert_eq!(waiting.next_batch(&mut slots), None);
    }

    #[test]
    fn the_urgent_band_starts_first_whatever_its_size() {
        let mut waiting = waiting([
            task("low", "a", Priority::Low, Some(1)),
            task("normal", "a", Priority::Normal, Some(1)),
            task("high", "z", Priority::High, Some(10_000)),
        ]);
        let mut slots = Slots::new(BUDGET);
        assert_eq!(ids(waiting.next_batch(&mut slots)), ["high"]);
        assert_eq!(ids(waiting.next_batch(&mut slots)), ["normal"]);
        assert_eq!(ids(waiting.next_batch(&mut slots)), ["low"]);
    }

    #[test]
    fn origins_take_turns() {
        let many = (0..300).map(|n| task(&format!("a{n}"), "a", Priority::Normal, Some(0)));
        let mut waiting = waiting(many.chain([task("b", "b", Priority::Normal, Some(0))]));
        let mut slots = Slots::new(Budget { tasks: 1000, ..BUDGET });
        let origins: Vec<_> = std::iter::from_fn(|| waiting.next_batch(&mut slots))
            .map(|batch| (batch.origin, batch.tasks.len()))
            .collect();
        assert_eq!(origins, [("a".into(), 100), ("b".into(), 1), ("a".into(), 100), ("a".into(), 100)]);
    }

    #[test]
    fn a_large_object_gets_its_half_although_small_ones_never_end() {
        let mut waiting = waiting((0..100).map(|n| task(&format!("s{n}"), "a", Priority::Normal, None)));
        let mut slots = Slots::new(BUDGET);
        assert_eq!(ids(waiting.next_batch(&mut slots)).len(), 10);
        waiting.push(SizeClass::Large, task("l", "a", Priority::Normal, Some(10_000)));
        for ended in 0..4 {
            assert_eq!(waiting.next_batch(&mut slots), None, "after {ended}");
            slots.give_back(SizeClass::Small, 100);
        }
        assert_eq!(ids(waiting.next_batch(&mut slots)), ["l"]);
    }

    #[test]
    fn a_waiting_task_can_be_taken_out() {
        let mut waiting = waiting([task("a", "a", Priority::Normal, Some(1))]);
        let lease = LeaseKey::from_wire("a", &[1; 16]).expect("it is well formed");
        assert!(waiting.remove(&lease).is_some());
        assert!(waiting.remove(&lease).is_none());
        assert_eq!(waiting.next_batch(&mut Slots::new(BUDGET)), None);
    }

    proptest! {
        #[test]
        fn every_task_starts_exactly_once_and_memory_is_never_exceeded(
            sizes in proptest::collection::vec((proptest::option::of(0_u64..2_000), 0..3_u8, 0..3_i32), 1..60)
        ) {
            let mut waiting = Waiting::default();
            for (n, (size, origin, band)) in sizes.iter().enumerate() {
                let priority = Priority::try_from(band + 1).expect("the bands are 1 to 3");
                waiting.push(BUDGET.class(*size), task(&n.to_string(), &origin.to_string(), priority, *size));
            }
            let mut slots = Slots::new(BUDGET);
            let mut running = VecDeque::new();
            let mut started = Vec::new();
            while started.len() < sizes.len() {
                while let Some(batch) = waiting.next_batch(&mut slots) {
                    prop_assert!(batch.class == SizeClass::Small || batch.tasks.len() == 1);
                    for (task, cost) in batch.tasks {
                        prop_assert_eq!(&task.object.location, &batch.origin);
                        started.push(task.lease.task_id.to_string());
                        running.push_back((batch.class, cost));
                    }
                }
                prop_assert!(running.iter().map(|(_, cost)| cost).sum::<u64>() <= BUDGET.memory_bytes);
                prop_assert!(!running.is_empty(), "something always fits");
                running.pop_front().into_iter().for_each(|(class, cost)| slots.give_back(class, cost));
            }
            started.sort();
            started.dedup();
            prop_assert_eq!(started.len(), sizes.len());
        }
    }
}
