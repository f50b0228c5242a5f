//! The states of a task and every move between them, as one table without a default arm.
//!
//! It exists so that a move that nobody thought of is an error and not a surprise. It says where a task may go, not when: that is
//! `policy`, and the stores check the rest (token, time) themselves. No time, no I/O here.

use super::task::TaskState;

/// A move of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transition {
    /// A worker gets it.
    Lease,
    /// Its processing or retry time has come, or a repeated request wants it now.
    BecomeDue,
    /// The newest lease reported success, perhaps late.
    Succeed,
    /// The lease ended; try again later.
    Delay,
    /// The lease ended at no cost; back to its old place.
    HandBack,
    /// The lease ended, and there is no point in another.
    Bury,
    /// Cancelled; of a working task: once the copy has stopped.
    Cancel,
    /// The lease ended, perhaps late, and meanwhile the object was asked for again: a new run.
    RunAgain,
    /// A finished task is asked for again, due now.
    Renew,
    /// A finished task is asked for again, for later.
    Reschedule,
}

/// A move that the table does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a task that is {from:?} cannot {transition:?}")]
pub struct IllegalTransition {
    /// Where the task is.
    pub from: TaskState,
    /// What was tried.
    pub transition: Transition,
}

/// Where `transition` takes a task that is in `from`.
///
/// # Errors
/// [`IllegalTransition`] when the task cannot make this move.
pub const fn next(from: TaskState, transition: Transition) -> Result<TaskState, IllegalTransition> {
    use TaskState::{Cancelled, Dead, Delayed, Done, Pending, Scheduled, Working};
    let to = match transition {
        Transition::Lease => match from {
            Pending => Some(Working),
            Scheduled | Working | Delayed | Done | Dead | Cancelled => None,
        },
        Transition::BecomeDue => match from {
            Scheduled | Delayed => Some(Pending),
            Pending | Working | Done | Dead | Cancelled => None,
        },
        Transition::Succeed => match from {
            Working | Pending | Delayed | Dead => Some(Done),
            Scheduled | Done | Cancelled => None,
        },
        Transition::Delay => match from {
            Working => Some(Delayed),
            Scheduled | Pending | Delayed | Done | Dead | Cancelled => None,
        },
        Transition::HandBack => match from {
            Working => Some(Pending),
            Scheduled | Pending | Delayed | Done | Dead | Cancelled => None,
        },
        Transition::Bury => match from {
            Working => Some(Dead),
            Scheduled | Pending | Delayed | Done | Dead | Cancelled => None,
        },
        Transition::Cancel => match from {
            Scheduled | Pending | Working | Delayed => Some(Cancelled),
            Done | Dead | Cancelled => None,
        },
        Transition::RunAgain => match from {
            Working | Pending | Delayed => Some(Pending),
            Scheduled | Done | Dead | Cancelled => None,
        },
        Transition::Renew => match from {
            Done | Dead | Cancelled => Some(Pending),
            Scheduled | Pending | Working | Delayed => None,
        },
        Transition::Reschedule => match from {
            Done | Dead | Cancelled => Some(Scheduled),
            Scheduled | Pending | Working | Delayed => None,
        },
    };
    match to {
        Some(to) => Ok(to),
        None => Err(IllegalTransition { from, transition }),
    }
}

impl Transition {
    /// All moves.
    pub const ALL: [Self; 10] = [
        Self::Lease,
        Self::BecomeDue,
        Self::Succeed,
        Self::Delay,
        Self::HandBack,
        Self::Bury,
        Self::Cancel,
        Self::RunAgain,
        Self::Renew,
        Self::Reschedule,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table once more, as a person would draw it: one row a state, one column a move in the order of `ALL`.
    const DRAWN: [(TaskState, &str); 7] = [
        (TaskState::Scheduled, ". P . . . . C . . ."),
        (TaskState::Pending, "W . D . . . C P . ."),
        (TaskState::Working, ". . D L P X C P . ."),
        (TaskState::Delayed, ". P D . . . C P . ."),
        (TaskState::Done, ". . . . . . . . P S"),
        (TaskState::Dead, ". . D . . . . . P S"),
        (TaskState::Cancelled, ". . . . . . . . P S"),
    ];

    fn letter(state: TaskState) -> &'static str {
        match state {
            TaskState::Scheduled => "S",
            TaskState::Pending => "P",
            TaskState::Working => "W",
            TaskState::Delayed => "L",
            TaskState::Done => "D",
            TaskState::Dead => "X",
            TaskState::Cancelled => "C",
        }
    }

    #[test]
    fn the_table_is_the_one_that_was_drawn() {
        for (from, row) in DRAWN {
            for (transition, drawn) in Transition::ALL.into_iter().zip(row.split(' ')) {
                assert_eq!(next(from, transition).map_or(".", letter), drawn, "{from:?} {transition:?}");
            }
        }
    }

    #[test]
    fn only_a_new_request_or_a_late_success_leaves_a_finished_state() {
        for from in TaskState::ALL.into_iter().filter(|state| state.is_finished()) {
            for transition in Transition::ALL {
                let asked_again = matches!(transition, Transition::Renew | Transition::Reschedule);
                let late_success = from == TaskState::Dead && transition == Transition::Succeed;
                assert_eq!(next(from, transition).is_ok(), asked_again || late_success);
            }
        }
    }

    #[test]
    fn every_unfinished_task_can_be_cancelled_and_every_state_can_be_left_for_pending() {
        for from in TaskState::ALL {
            assert_eq!(next(from, Transition::Cancel).is_ok(), !from.is_finished());
            let mut to = Transition::ALL.into_iter().filter_map(|transition| next(from, transition).ok());
            assert!(to.any(|to| to == TaskState::Pending) || from == TaskState::Pending);
        }
    }
}
