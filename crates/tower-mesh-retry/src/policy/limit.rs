//! Which bound ends a wait: that of the attempt or that of the whole call.

use tower_mesh_core::Tick;

/// The earlier of two bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The attempt ends first; another may follow.
    Attempt(Tick),
    /// The whole call does; that is final.
    Call(Tick),
}

impl Limit {
    /// The earlier of the end of an attempt and the deadline of its call, none if there is neither. At the same instant the deadline wins: an
    /// attempt timeout not below the time left has no effect (Envoy).
    pub fn earlier(attempt: Option<Tick>, deadline: Option<Tick>) -> Option<Self> {
        match (attempt, deadline) {
            (Some(attempt), Some(deadline)) if attempt < deadline => Some(Self::Attempt(attempt)),
            (_, Some(deadline)) => Some(Self::Call(deadline)),
            (Some(attempt), None) => Some(Self::Attempt(attempt)),
            (None, None) => None,
        }
    }

    /// When it is.
    pub const fn at(self) -> Tick {
        match self {
            Self::Attempt(at) | Self::Call(at) => at,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin; it does not pass")]
    fn the_deadline_wins_a_tie() {
        let at = Tick::of(std::time::Instant::now());
        let later = at + Duration::from_nanos(1);
        assert_eq!(Limit::earlier(Some(at), Some(at)), Some(Limit::Call(at)));
        assert_eq!(Limit::earlier(Some(at), Some(later)), Some(Limit::Attempt(at)));
        assert_eq!(Limit::earlier(Some(later), Some(at)), Some(Limit::Call(at)));
        assert_eq!(Limit::earlier(None, None), None);
    }
}
