//! How an object is cut into parts. Pure arithmetic; the engine does what it says.
//!
//! Parts tile the object exactly and are as large as asked for, until an object is so large that S3 would not take that many.

/// Smallest part but for the last: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>
pub(super) const MIN_PART_BYTES: u64 = 5 * 1024 * 1024;
/// Largest part, and largest object written or copied in one request (same page).
pub(super) const MAX_PART_BYTES: u64 = 5 * 1024 * 1024 * 1024;
/// Most parts of an upload (same page).
pub(super) const MAX_PARTS: u32 = 10_000;

/// Part sizes are whole multiples of this, so that a plan is the same whatever the exact size of the object was hinted to be.
const STEP_BYTES: u64 = 1024 * 1024;

/// What a store allows. The default is S3's; only tests against stores that check less use others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Smallest part but for the last.
    pub min_part_bytes: u64,
    /// Largest part, and largest object in one request.
    pub max_part_bytes: u64,
    /// Most parts of an upload.
    pub max_parts: u32,
}

/// The parts of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartPlan {
    size_bytes: u64,
    part_bytes: u64,
}

/// One part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// From 1.
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// Bytes; never 0.
    pub length: u64,
}

/// Why an object cannot be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// More than the largest number of the largest parts.
    #[error("an object of {size_bytes} bytes is larger than a store takes")]
    TooLarge {
        /// Its size.
        size_bytes: u64,
    },
    /// One part alone would not fit into the memory that copies may use.
    #[error(
        "an object of {size_bytes} bytes needs parts of {part_bytes} bytes, and all copies of this worker \
         may hold {memory_bytes}: give it more memory"
    )]
    Memory {
        /// Its size.
        size_bytes: u64,
        /// The part it would take.
        part_bytes: u64,
        /// What there is.
        memory_bytes: u64,
    },
}

impl PartPlan {
    /// Cuts `size_bytes` into parts of `part_bytes`, or of as much more as the limits make necessary. A part is held in memory while it
    /// moves, so one must fit into `memory_bytes`; `None` where no bytes pass through the worker.
    ///
    /// # Errors
    /// [`PlanError`]; neither passes by itself.
    pub fn new(
        size_bytes: u64,
        part_bytes: u64,
        memory_bytes: Option<u64>,
        limits: Limits,
    ) -> Result<Self, PlanError> {
        let wanted = part_bytes.clamp(limits.min_part_bytes.max(1), limits.max_part_bytes);
        let fewest = size_bytes.div_ceil(u64::from(limits.max_parts.max(1)));
        let part_bytes = if fewest <= wanted {
            wanted
        } else {
            fewest.div_ceil(STEP_BYTES).saturating_mul(STEP_BYTES).min(limits.max_part_bytes)
        };
        if part_bytes < fewest {
            return Err(PlanError::TooLarge { size_bytes });
        }
        match memory_bytes {
            Some(memory_bytes) if part_bytes.min(size_bytes) > memory_bytes => {
                Err(PlanError::Memory { size_bytes, part_bytes, memory_bytes })
            }
            _ => Ok(Self { size_bytes, part_bytes }),
        }
    }

    /// Number of parts; an empty object has none.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.size_bytes.div_ceil(self.part_bytes)).unwrap_or(u32::MAX)
    }

    /// Length of every part but the last.
    #[must_use]
    pub const fn part_bytes(&self) -> u64 {
        self.part_bytes
    }

    /// Length of the object.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The part of that number; `None` outside 1 to [`PartPlan::count`].
    #[must_use]
    pub fn part(&self, number: u32) -> Option<Part> {
        let start = u64::from(number.checked_sub(1)?).checked_mul(self.part_bytes)?;
        let left = self.size_bytes.checked_sub(start).filter(|left| *left > 0)?;
        Some(Part { number, start, length: left.min(self.part_bytes) })
    }

    /// All parts in order.
    pub fn parts(&self) -> impl Iterator<Item = Part> + use<> {
        let plan = *self;
        (1..=plan.count()).map_while(move |n| plan.part(n))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { min_part_bytes: MIN_PART_BYTES, max_part_bytes: MAX_PART_BYTES, max_parts: MAX_PARTS }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn plan(size: u64, part: u64) -> PartPlan {
        PartPlan::new(size, part, None, Limits::default()).expect("fits")
    }

    #[test]
    fn a_part_more_or_less_than_a_byte_is_counted_right() {
        let part = 8 * MIB;
        let counts = [0, 1, part - 1, part, part + 1, 3 * part].map(|size| plan(size, part).count());
        assert_eq!(counts, [0, 1, 1, 1, 2, 3]);
    }

    #[test]
    fn the_largest_objects_get_larger_parts_and_never_too_many() {
        let size = 5 * 1024 * 1024 * MIB;
        let plan = plan(size, 8 * MIB);
        assert_eq!(plan.part_bytes(), 525 * MIB);
        assert!(plan.count() <= MAX_PARTS);
        let most = MAX_PART_BYTES * u64::from(MAX_PARTS);
        assert!(PartPlan::new(most, 8 * MIB, None, Limits::default()).is_ok());
        let above = PartPlan::new(most + 1, 8 * MIB, None, Limits::default());
        assert_eq!(above, Err(PlanError::TooLarge { size_bytes: most + 1 }));
        assert!(PartPlan::new(u64::MAX, 8 * MIB, None, Limits::default()).is_err());
    }

    #[test]
    fn a_part_that_memory_cannot_hold_is_refused_by_name() {
        let refused = PartPlan::new(5 * 1024 * 1024 * MIB, 8 * MIB, Some(64 * MIB), Limits::default());
        assert!(matches!(refused, Err(PlanError::Memory { part_bytes, .. }) if part_bytes == 525 * MIB));
        assert!(
            PartPlan::new(100, 8 * MIB, Some(100), Limits::default()).is_ok(),
            "the whole object is less"
        );
    }

    proptest! {
        #[test]
        fn parts_tile_any_object_exactly(
            size in 0..6 * 1024 * 1024 * MIB,
            wanted in 0..6 * 1024 * MIB,
        ) {
            let plan = plan(size, wanted);
            let count = plan.count();
            prop_assert!(count <= MAX_PARTS);
            prop_assert!(plan.part_bytes() >= MIN_PART_BYTES && plan.part_bytes() <= MAX_PART_BYTES);
            let mut end = 0;
            for part in plan.parts() {
                prop_assert_eq!(part.start, end);
                prop_assert!(part.length > 0);
                prop_assert!(part.number == count || part.length == plan.part_bytes());
                end = part.start + part.length;
            }
            prop_assert_eq!(end, size);
            prop_assert_eq!(plan.part(0), None);
            prop_assert_eq!(plan.part(count + 1), None);
        }
    }
}
