//! The refusal.

use std::error::Error;
use std::fmt;

use tower_mesh_core::Priority;
use tower_mesh_core::classify::Verdict;
use tower_mesh_core::error::Judged;

/// There is no room for the call. Nothing was sent, and it counts in nobody's window; elsewhere there may be room at once.
#[derive(Debug)]
pub struct Overloaded {
    reason: OverloadReason,
    priority: Priority,
    judged: Judged,
}

/// What there was no room in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OverloadReason {
    /// As many calls are under way as may be, for a call of this priority, and as many wait as may.
    Limit,
    /// It waited for as long as a call may.
    WaitedTooLong,
    /// It waited, and its place went to a call of higher priority.
    Displaced,
    /// Too few of the calls succeed; chance refused this one.
    SuccessRate,
}

impl Overloaded {
    pub(crate) const fn new(reason: OverloadReason, priority: Priority) -> Self {
        Self { reason, priority, judged: Judged::new(Verdict::REFUSED) }
    }

    /// What there was no room in.
    pub const fn reason(&self) -> OverloadReason {
        self.reason
    }

    /// The priority of the call that was refused: one above it may have been admitted.
    pub const fn priority(&self) -> Priority {
        self.priority
    }
}

impl fmt::Display for Overloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.reason {
            OverloadReason::Limit => "as many are under way as may be",
            OverloadReason::WaitedTooLong => "none ended in time",
            OverloadReason::Displaced => "a more important one came",
            OverloadReason::SuccessRate => "too few succeed",
        };
        write!(f, "overloaded: no room for a {} call, {why}", self.priority)
    }
}

impl Error for Overloaded {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.judged)
    }
}
