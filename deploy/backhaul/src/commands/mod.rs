//! The commands, one file each. They speak to a dispatcher through [`crate::client`] (`probe` to a store, through the worker's library) and
//! print through [`crate::output`]; they must not know how either service works.

pub(crate) mod audit;
pub(crate) mod cancel;
pub(crate) mod events;
pub(crate) mod list;
pub(crate) mod prefix;
pub(crate) mod probe;
pub(crate) mod retry;
pub(crate) mod schedule;
pub(crate) mod stats;
pub(crate) mod status;
pub(crate) mod submit;
pub(crate) mod watch;

/// How a command ended, for the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Everything asked for is so: 0.
    Good,
    /// Something asked for is not so (a task is dead, a request was refused): 1.
    Bad,
    /// All that there is is so, and its end is not there: 3.
    CutOff,
}

impl Verdict {
    /// Bad when either is, else cut off when either is.
    pub(crate) const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Good, Self::Good) => Self::Good,
            (Self::Bad, _) | (_, Self::Bad) => Self::Bad,
            (Self::CutOff, _) | (_, Self::CutOff) => Self::CutOff,
        }
    }
}
