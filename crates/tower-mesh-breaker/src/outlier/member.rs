//! One endpoint of a set, and what it did since the last sweep.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use tower_mesh_core::classify::{Origin, Outcome};
use tower_mesh_core::{EndpointHandle, EndpointId, Tick, WeakEndpoint};

use super::policy::{Counts, Rule};
use super::set::Shared;

/// One endpoint is counted, for as long as anybody holds this: its record, or a circuit.
pub(crate) struct Member {
    /// Calls in the low half, failed ones in the high half: the usual call is one addition.
    calls: AtomicU64,
    in_a_row: AtomicU32,
    local_in_a_row: AtomicU32,
    local: AtomicU64,
    good_ns: AtomicU64,
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
            calls: AtomicU64::new(0),
            in_a_row: AtomicU32::new(0),
            local_in_a_row: AtomicU32::new(0),
            local: AtomicU64::new(0),
            good_ns: AtomicU64::new(0),
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
            Outcome::Success | Outcome::Undecided => {
                self.calls.fetch_add(1, Relaxed);
                if self.shared.limits.latency.load(Relaxed) {
                    self.good_ns.fetch_add(elapsed_ns, Relaxed);
                }
                if self.in_a_row.load(Relaxed) != 0 {
                    self.in_a_row.store(0, Relaxed);
                }
                self.answered();
            }
            Outcome::Failure(origin) => self.failed(origin, now),
            Outcome::Ignored | Outcome::Refused => {}
        }
    }

    /// It answered, however: what fails on the way there is over.
    #[inline]
    fn answered(&self) {
        if self.local_in_a_row.load(Relaxed) != 0 {
            self.local_in_a_row.store(0, Relaxed);
        }
    }

    #[cold]
    fn failed(&self, origin: Origin, now: Tick) {
        let limits = &self.shared.limits;
        self.calls.fetch_add(1 | 1 << 32, Relaxed);
        match origin {
            Origin::Overload => {}
            Origin::Remote => self.answered(),
            Origin::Local => {
                self.local.fetch_add(1, Relaxed);
                if reached(&self.local_in_a_row, limits.consecutive_local.load(Relaxed)) {
                    self.shared.found(self, Rule::ConsecutiveLocal, now);
                }
                if limits.split_local.load(Relaxed) {
                    return;
                }
            }
        }
        if origin != Origin::Overload && reached(&self.in_a_row, limits.consecutive.load(Relaxed)) {
            self.shared.found(self, Rule::Consecutive, now);
        }
    }

    pub(super) fn stalled_ns(&self) -> &AtomicU64 {
        &self.shared.limits.stalled_ns
    }

    /// Takes what was counted since this was last asked.
    pub(super) fn take_counts(&self) -> Counts {
        // Each failure is counted as a call before it is as a local one, and so taken the other way round.
        let local = self.local.swap(0, Relaxed);
        let good_ns = self.good_ns.swap(0, Relaxed);
        let calls = self.calls.swap(0, Relaxed);
        let (total, failed) = (calls & u64::from(u32::MAX), calls >> 32);
        Counts { total, failed, local: local.min(failed), good_ns }
    }

    /// Begins all rows anew.
    pub(super) fn restart_rows(&self) {
        self.in_a_row.store(0, Relaxed);
        self.local_in_a_row.store(0, Relaxed);
    }
}

/// Counts one more in a row; whether that makes `limit`. Then the row begins anew, whatever comes of it. However many threads count, one is told.
fn reached(row: &AtomicU32, limit: u32) -> bool {
    let length = row.fetch_add(1, Relaxed).saturating_add(1);
    limit != 0 && length >= limit && row.compare_exchange(length, 0, Relaxed, Relaxed).is_ok()
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
