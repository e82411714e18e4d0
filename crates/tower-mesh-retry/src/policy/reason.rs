//! Why an attempt failed, as far as attempts are counted by it.

use std::fmt;

use tower_mesh_core::classify::{Origin, Outcome};

/// Why an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureReason {
    /// This side or the way there: connect, reset, timeout.
    Local,
    /// The endpoint's answer.
    Remote,
    /// The endpoint asks for less.
    Overload,
    /// A layer of ours refused it: a circuit is open, there is no endpoint, or none that is ready.
    Refused,
    /// It counts as no failure, and yet may be sent again.
    Ignored,
}

impl FailureReason {
    /// Every reason, in the order of their declaration.
    pub const ALL: [Self; 5] = [Self::Local, Self::Remote, Self::Overload, Self::Refused, Self::Ignored];
    pub(crate) const COUNT: usize = Self::ALL.len();

    /// That of an attempt which came to `outcome`.
    pub const fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Failure(Origin::Local) => Self::Local,
            Outcome::Failure(Origin::Remote) => Self::Remote,
            Outcome::Failure(Origin::Overload) => Self::Overload,
            Outcome::Refused => Self::Refused,
            Outcome::Ignored | Outcome::Success | Outcome::Undecided => Self::Ignored,
        }
    }

    /// Its name in events and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
            Self::Overload => "overload",
            Self::Refused => "refused",
            Self::Ignored => "ignored",
        }
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
