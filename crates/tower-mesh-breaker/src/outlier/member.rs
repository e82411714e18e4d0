//! One endpoint of a set, and what it did since the last sweep.

use std::fmt;
use std::sync::Arc;

use tower_mesh_core::classify::Outcome;
use tower_mesh_core::{EndpointHandle, EndpointId, Tick, WeakEndpoint};

use super::policy::{Counts, Rule};
use super::set::Shared;
use super::tally::Tally;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// One endpoint is counted, for as long as anybody holds this: its record, or a circuit.
pub(crate) struct Member {
    tally: Tally,
    pub(super) key: u32,
    pub(super) id: EndpointId,
    /// Weak, because the record is what holds this.
    endpoint: WeakEndpoint,
    attached: AtomicBool,
    shared: Arc<Shared>,
}

impl Member {
    pub(super) fn new(endpoint: &EndpointHandle, shared: Arc<Shared>) -> Self {
        Self {
            tally: Tally::default(),
            key: endpoint.key(),
            id: endpoint.id().clone(),
            endpoint: endpoint.downgrade(),
            attached: AtomicBool::new(false),
            shared,
        }
    }

    /// The endpoint, if its record is still there. Not to be dropped under the set's lock: with it may go the record, and with that this.
    pub(super) fn endpoint(&self) -> Option<EndpointHandle> {
        self.endpoint.upgrade()
    }

    /// Lets it live as long as the record of `endpoint`, which it is the member for.
    pub(super) fn attach_to(self: &Arc<Self>, endpoint: &EndpointHandle) {
        if !self.attached.swap(true, Relaxed) {
            endpoint.attach(self.clone());
        }
    }

    /// Takes in how a call ended.
    #[inline]
    pub(crate) fn record(&self, outcome: Outcome, elapsed_ns: u64, now: Tick) {
        match outcome {
            Outcome::Success | Outcome::Undecided => self.tally.succeeded(elapsed_ns, &self.shared.limits),
            Outcome::Failure(origin) => {
                let rows = self.tally.failed(origin, &self.shared.limits);
                let rules = [(rows.local, Rule::ConsecutiveLocal), (rows.any, Rule::Consecutive)];
                for (_, rule) in rules.into_iter().filter(|(complete, _)| *complete) {
                    self.shared.found(self, rule, now);
                }
            }
            Outcome::Ignored | Outcome::Refused => {}
        }
    }

    pub(super) fn stalled_ns(&self) -> &AtomicU64 {
        &self.shared.limits.stalled_ns
    }

    /// What was counted since the last sweep; counting begins anew.
    pub(super) fn take_counts(&self) -> Counts {
        self.tally.take()
    }

    /// Failures before now begin no row.
    pub(super) fn restart_rows(&self) {
        self.tally.restart_rows();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.shared.leave(self);
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("endpoint", &self.id).finish_non_exhaustive()
    }
}
