//! File descriptors: how many this process may have open, raised as far as the system allows.
//!
//! Every connection is one. Must not know what they are used for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the process's own limit to the most that it may set, and says what that is; `None` for no limit.
///
/// The lower limit is only a default, kept for programs that use `select`.
#[must_use]
pub fn raise_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum || setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok() {
        maximum
    } else {
        current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_most_that_may_be_set_and_is_told() {
        let told = raise_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(told, limit.current);
        assert_eq!(limit.current, limit.maximum);
    }
}
