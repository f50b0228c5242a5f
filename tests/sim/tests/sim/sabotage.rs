//! Defects that are put in on purpose. A checker that does not catch each of them proves nothing.

/// A defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// The queue stores reports under any lease.
    NoFence,
    /// The queue says that it has stored a report that it has not.
    ConfirmUnstored,
    /// The queue says that it has accepted a task that it has not.
    ForgetSubmits,
    /// The queue ends leases long before the time that everybody was told.
    ShortLeases,
    /// The queue says that it has taken back a lease that it keeps.
    KeepHandedBack,
    /// The backup store overwrites what is there.
    Overwrite,
    /// A bit of one backup is not what it was.
    Rot,
}

impl Sabotage {
    pub(crate) const ALL: [Self; 7] = [
        Self::NoFence,
        Self::ConfirmUnstored,
        Self::ForgetSubmits,
        Self::ShortLeases,
        Self::KeepHandedBack,
        Self::Overwrite,
        Self::Rot,
    ];

    /// Its name in the environment of a child.
    pub(crate) fn name(self) -> String {
        format!("{self:?}")
    }

    /// The defect of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sabotage| sabotage.name() == name)
    }
}
