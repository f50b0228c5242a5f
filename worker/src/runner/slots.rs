//! How much of the worker's memory the running copies may take.
//!
//! It exists so that the number of copies follows from a byte budget and not from a guess. Pure accounting: what is charged when a
//! copy starts is given back when it ends.

/// What the copies may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Copies at a time.
    pub tasks: usize,
    /// Bytes of all copies in flight.
    pub memory_bytes: u64,
    /// Bytes of one part; an object up to this size is copied in one piece.
    pub part_bytes: u64,
    /// Parts that one large copy has in flight.
    pub parts_in_flight: u32,
}

/// How a copy is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SizeClass {
    /// In one piece of memory: at most one part, or of unknown size.
    Small,
    /// In parts.
    Large,
}

/// The room that is left.
#[derive(Debug)]
pub(crate) struct Slots {
    budget: Budget,
    running: usize,
    small_bytes: u64,
    large_bytes: u64,
}

impl Budget {
    /// The class of an object.
    pub(crate) fn class(&self, size_hint_bytes: Option<u64>) -> SizeClass {
        match size_hint_bytes {
            Some(size) if size > self.part_bytes => SizeClass::Large,
            Some(_) | None => SizeClass::Small,
        }
    }

    /// Bytes of memory that a copy is charged for. At most half of all, so that each class fits into its half.
    pub(crate) fn cost(&self, size_hint_bytes: Option<u64>) -> u64 {
        let window = self.part_bytes.saturating_mul(u64::from(self.parts_in_flight));
        let cost = match (self.class(size_hint_bytes), size_hint_bytes) {
            (SizeClass::Small, hint) => hint.unwrap_or(self.part_bytes),
            (SizeClass::Large, hint) => hint.unwrap_or(window).min(window),
        };
        cost.min(self.memory_bytes / 2)
    }
}

impl Slots {
    pub(crate) const fn new(budget: Budget) -> Self {
        Self { budget, running: 0, small_bytes: 0, large_bytes: 0 }
    }

    pub(crate) const fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Takes room for a copy, if there is any.
    ///
    /// A class may use all memory while nobody else wants it, but only half of it while the other class waits: otherwise a stream of
    /// small objects would never leave room for a large one, and a few large ones would hold up every small one.
    pub(crate) fn take(&mut self, class: SizeClass, cost: u64, other_waits: bool) -> bool {
        let all = self.small_bytes.saturating_add(self.large_bytes).saturating_add(cost);
        let own = self.bytes_of(class).saturating_add(cost);
        let fits = self.running < self.budget.tasks
            && all <= self.budget.memory_bytes
            && (!other_waits || own <= self.budget.memory_bytes / 2);
        if fits {
            self.running += 1;
            *self.bytes_of_mut(class) += cost;
        }
        fits
    }

    /// Gives the room of an ended copy back.
    pub(crate) fn give_back(&mut self, class: SizeClass, cost: u64) {
        self.running = self.running.saturating_sub(1);
        let bytes = self.bytes_of_mut(class);
        *bytes = bytes.saturating_sub(cost);
    }

    const fn bytes_of(&self, class: SizeClass) -> u64 {
        match class {
            SizeClass::Small => self.small_bytes,
            SizeClass::Large => self.large_bytes,
        }
    }

    const fn bytes_of_mut(&mut self, class: SizeClass) -> &mut u64 {
        match class {
            SizeClass::Small => &mut self.small_bytes,
            SizeClass::Large => &mut self.large_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const BUDGET: Budget =
        Budget { tasks: 64, memory_bytes: 128 * MIB, part_bytes: 16 * MIB, parts_in_flight: 4 };

    #[test]
    fn an_object_of_unknown_size_is_charged_one_part() {
        assert_eq!((BUDGET.class(None), BUDGET.cost(None)), (SizeClass::Small, 16 * MIB));
    }

    #[test]
    fn a_small_object_is_charged_its_size_and_a_large_one_its_window() {
        assert_eq!(BUDGET.cost(Some(1)), 1);
        assert_eq!((BUDGET.class(Some(16 * MIB)), BUDGET.cost(Some(16 * MIB))), (SizeClass::Small, 16 * MIB));
        assert_eq!(BUDGET.cost(Some(40 * MIB)), 40 * MIB);
        assert_eq!((BUDGET.class(Some(u64::MAX)), BUDGET.cost(Some(u64::MAX))), (SizeClass::Large, 64 * MIB));
        assert_eq!(Budget { memory_bytes: 32 * MIB, ..BUDGET }.cost(Some(u64::MAX)), 16 * MIB);
    }

    #[test]
    fn one_class_may_have_everything_until_the_other_waits() {
        let mut slots = Slots::new(BUDGET);
        for _ in 0..8 {
            assert!(slots.take(SizeClass::Small, 16 * MIB, false));
        }
        assert!(!slots.take(SizeClass::Small, 1, false));
        for _ in 0..4 {
            slots.give_back(SizeClass::Small, 16 * MIB);
            assert_eq!(slots.running > 4, !slots.take(SizeClass::Large, 64 * MIB, true));
        }
        assert!(!slots.take(SizeClass::Small, 1, true));
    }

    #[test]
    fn the_number_of_copies_is_bounded_however_small_they_are() {
        let mut slots = Slots::new(BUDGET);
        let started = (0..1000).filter(|_| slots.take(SizeClass::Small, 0, false)).count();
        assert_eq!(started, 64);
    }
}
