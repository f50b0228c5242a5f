//! What is copied: a few loads that differ in the size of their objects, the same for every tool.

use bytes::Bytes;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Random bytes that all objects are cut from.
const BLOCK_BYTES: u64 = 32 * MIB;

/// Objects of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    /// As it is called in the report.
    pub(crate) name: &'static str,
    /// Bucket of the origin that holds nothing else.
    pub(crate) bucket: &'static str,
    /// Objects.
    pub(crate) count: u64,
    /// Bytes of each.
    pub(crate) size_bytes: u64,
    /// Objects that every tool may copy at a time.
    pub(crate) at_once: usize,
    /// From one server to another, or within one.
    pub(crate) inside: bool,
}

/// All of them. The last shares its objects with the first.
pub(crate) fn cases(is_quick: bool) -> [Case; 4] {
    let few = |many: u64, few: u64| if is_quick { few } else { many };
    let small = Case {
        name: "small",
        bucket: "small-objects",
        count: few(5_000, 500),
        size_bytes: 16 * KIB,
        // As many as a worker takes unless told otherwise.
        at_once: 128,
        inside: false,
    };
    let medium = Case {
        name: "medium",
        bucket: "medium-objects",
        count: few(40, 8),
        size_bytes: 32 * MIB,
        at_once: 8,
        inside: false,
    };
    let large = Case {
        name: "large",
        bucket: "large-objects",
        count: 1,
        size_bytes: few(2048, 256) * MIB,
        at_once: 1,
        inside: false,
    };
    [small, medium, large, Case { name: "server_side", inside: true, ..small }]
}

impl Case {
    /// Key of the object of that number.
    pub(crate) fn key(&self, number: u64) -> String {
        format!("p{:02}/object-{number:05}", number % 50)
    }

    /// All keys.
    pub(crate) fn keys(&self) -> impl Iterator<Item = String> + use<> {
        let case = *self;
        (0..case.count).map(move |number| case.key(number))
    }

    /// Bytes of all objects.
    pub(crate) const fn total_bytes(&self) -> u64 {
        self.count * self.size_bytes
    }
}

/// Random bytes to cut objects from.
pub(crate) fn block() -> Bytes {
    let mut bytes = vec![0; usize::try_from(BLOCK_BYTES).unwrap_or(usize::MAX)];
    fastrand::Rng::with_seed(7).fill(&mut bytes);
    bytes.into()
}

/// `length` bytes of the block, begun at an offset that differs from object to object, in pieces that are not copied.
pub(crate) fn cut(block: &Bytes, number: u64, length: u64) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let (mut at, mut left) = (number * 97 % block.len() as u64, length);
    while left > 0 {
        let end = (at + left).min(block.len() as u64);
        let range = usize::try_from(at).unwrap_or(0)..usize::try_from(end).unwrap_or(0);
        pieces.push(block.slice(range));
        left -= end - at;
        at = 0;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_as_long_as_it_should_be_wherever_it_begins() {
        let block = Bytes::from_static(b"0123456789");
        let bytes = |number, length| cut(&block, number, length).concat();
        assert_eq!(bytes(1, 5), b"78901");
        assert_eq!(bytes(0, 25), b"0123456789012345678901234");
        assert_eq!(bytes(3, 0), b"");
    }
}
