//! Counting calls in and out.

use super::EndpointHandle;
use crate::classify::Outcome;
use crate::sync::atomic::{AtomicU64, Ordering};

impl EndpointHandle {
    /// Counts a call in. Every call counted in is counted out once, by [`finished`](Self::finished).
    #[inline]
    pub fn started(&self) {
        self.0.hot.started.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a call out, by how it ended.
    #[inline]
    pub fn finished(&self, end: CallEnd) {
        let hot = &self.0.hot;
        let counter = match end {
            CallEnd::Answered(Outcome::Success | Outcome::Undecided) => &hot.succeeded,
            CallEnd::Answered(Outcome::Failure(_)) => &hot.failed,
            CallEnd::Answered(Outcome::Ignored | Outcome::Refused) => &hot.ignored,
            CallEnd::Abandoned => &hot.abandoned,
        };
        // Whoever sees the end sees the start, which came before it.
        counter.fetch_add(1, Ordering::Release);
    }

    /// The calls counted so far.
    #[inline]
    pub fn counts(&self) -> CallCounts {
        let hot = &self.0.hot;
        let read = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        // Ends first: a call that starts and ends in between is then at worst still in flight, never negative.
        let (succeeded, failed) = (read(&hot.succeeded), read(&hot.failed));
        let (ignored, abandoned) = (read(&hot.ignored), read(&hot.abandoned));
        CallCounts { started: read(&hot.started), succeeded, failed, ignored, abandoned }
    }
}

/// How a call that was counted in is counted out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallEnd {
    /// It ended with this outcome.
    Answered(Outcome),
    /// It was dropped before its end.
    Abandoned,
}

/// Calls of one endpoint since it appeared. At rest, `started` is the sum of the other four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CallCounts {
    /// Sent, or about to be.
    pub started: u64,
    /// Ended well.
    pub succeeded: u64,
    /// Ended badly.
    pub failed: u64,
    /// Ended without saying anything of the endpoint.
    pub ignored: u64,
    /// Dropped before the end: a timeout of ours, a lost hedge, a caller gone.
    pub abandoned: u64,
}

impl CallCounts {
    /// Calls not yet ended.
    #[inline]
    pub fn in_flight(&self) -> u64 {
        self.started.saturating_sub(self.succeeded + self.failed + self.ignored + self.abandoned)
    }
}
