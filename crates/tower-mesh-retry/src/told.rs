//! What the layers tell: counts that are always kept, and news for those who listen. All of it is off the path of a call that goes well.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use tower_mesh_core::{Listeners, Operation};

use crate::budget::BudgetSnapshot;
use crate::error::Attempt;
use crate::policy::decision::StopReason;
use crate::policy::reason::FailureReason;

/// The fields of the span around a call that the layers fill in, if it has them: a span of the mesh's or of the user's own.
pub(crate) mod field {
    /// How many attempts there were, the one under way included.
    pub(crate) const ATTEMPTS: &str = "mesh.attempts";
    /// Why the last attempt failed: a name of [`FailureReason`](super::FailureReason).
    pub(crate) const REASON: &str = "mesh.retry.reason";
    /// The wait before the last attempt, in milliseconds.
    pub(crate) const DELAY_MS: &str = "mesh.retry.delay_ms";
    /// Why there was no other: a name of [`StopReason`].
    pub(crate) const STOPPED: &str = "mesh.retry.stopped";
    /// What the budget held then.
    pub(crate) const BALANCE: &str = "mesh.retry.balance";
}

/// A call failed and is not sent again, although its failure was one that another attempt may cure, or others had been made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GaveUp {
    /// The operation, if the call named one.
    pub operation: Option<Operation>,
    /// The attempts, in their order.
    pub attempts: Vec<Attempt>,
    /// Why there was no other.
    pub reason: StopReason,
    /// What the budget held then.
    pub budget: BudgetSnapshot,
}

/// How often requests were sent again since the start, and why, and why they were not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryCounts {
    retries: [u64; FailureReason::COUNT],
    stopped: [u64; StopReason::ALL.len()],
}

impl RetryCounts {
    /// Retries after a failure for `reason`.
    pub fn retries(&self, reason: FailureReason) -> u64 {
        self.retries[reason as usize]
    }

    /// Calls that were given up for `reason`.
    pub fn stopped(&self, reason: StopReason) -> u64 {
        self.stopped[reason as usize]
    }
}

/// How often hedges were sent since the start, and what came of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HedgeCounts {
    /// Hedges sent.
    pub sent: u64,
    /// Hedges whose answer was good and came before that of all other attempts.
    pub won: u64,
    /// Hedges that the budget did not pay for.
    pub denied: u64,
}

/// Of one retry layer and its clones.
#[derive(Default)]
pub(crate) struct RetryTold {
    retries: [AtomicU64; FailureReason::COUNT],
    stopped: [AtomicU64; StopReason::ALL.len()],
    pub(crate) listeners: Listeners<GaveUp>,
}

impl RetryTold {
    pub(crate) fn again(&self, reason: FailureReason) {
        self.retries[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// `news` is asked for only if somebody listens.
    pub(crate) fn gave_up(&self, reason: StopReason, news: impl FnOnce() -> GaveUp) {
        self.stopped[reason as usize].fetch_add(1, Ordering::Relaxed);
        if self.listeners.any() {
            let panicked = self.listeners.tell(&news());
            if panicked > 0 {
                tracing::error!(panicked, "listeners for calls that were given up panicked");
            }
        }
    }

    pub(crate) fn counts(&self) -> RetryCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RetryCounts { retries: self.retries.each_ref().map(read), stopped: self.stopped.each_ref().map(read) }
    }
}

impl fmt::Debug for RetryTold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts().fmt(f)
    }
}

/// Of one hedge layer and its clones.
#[derive(Debug, Default)]
pub(crate) struct HedgeTold {
    pub(crate) sent: AtomicU64,
    pub(crate) won: AtomicU64,
    pub(crate) denied: AtomicU64,
}

impl HedgeTold {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> HedgeCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HedgeCounts { sent: read(&self.sent), won: read(&self.won), denied: read(&self.denied) }
    }
}
