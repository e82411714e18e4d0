//! What one endpoint did since the last sweep, counted by all threads without a lock.

use tower_mesh_core::classify::Origin;

use super::policy::Counts;
use super::set::Limits;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

#[derive(Default)]
pub(super) struct Tally {
    /// Calls in the low half, failed ones in the high half: the usual call is one addition.
    calls: AtomicU64,
    in_a_row: AtomicU32,
    local_in_a_row: AtomicU32,
    local: AtomicU64,
    good_ns: AtomicU64,
}

/// Which rows of failures a failure has completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) local: bool,
    pub(super) any: bool,
}

impl Tally {
    #[inline]
    pub(super) fn succeeded(&self, elapsed_ns: u64, limits: &Limits) {
        self.calls.fetch_add(1, Relaxed);
        if limits.latency.load(Relaxed) {
            self.good_ns.fetch_add(elapsed_ns, Relaxed);
        }
        restart(&self.in_a_row);
        restart(&self.local_in_a_row);
    }

    #[cold]
    pub(super) fn failed(&self, origin: Origin, limits: &Limits) -> Rows {
        self.calls.fetch_add(1 | 1 << 32, Relaxed);
        let local = match origin {
            Origin::Overload => return Rows { local: false, any: false },
            Origin::Remote => {
                restart(&self.local_in_a_row); // it has answered
                false
            }
            Origin::Local => {
                self.local.fetch_add(1, Relaxed);
                reached(&self.local_in_a_row, limits.consecutive_local.load(Relaxed))
            }
        };
        let apart = origin == Origin::Local && limits.split_local.load(Relaxed);
        let any = !apart && reached(&self.in_a_row, limits.consecutive.load(Relaxed));
        Rows { local, any }
    }

    /// What was counted since this was last asked.
    pub(super) fn take(&self) -> Counts {
        // Each failure is counted as a call before it is as a local one, and so taken the other way round.
        let local = self.local.swap(0, Relaxed);
        let good_ns = self.good_ns.swap(0, Relaxed);
        let calls = self.calls.swap(0, Relaxed);
        let (total, failed) = (calls & u64::from(u32::MAX), calls >> 32);
        Counts { total, failed, local: local.min(failed), good_ns }
    }

    pub(super) fn restart_rows(&self) {
        self.in_a_row.store(0, Relaxed);
        self.local_in_a_row.store(0, Relaxed);
    }
}

#[inline]
fn restart(row: &AtomicU32) {
    if row.load(Relaxed) != 0 {
        row.store(0, Relaxed);
    }
}

/// Counts one more in a row; whether that completes it. Of several that reach the limit at once, one restarts the row and says so.
fn reached(row: &AtomicU32, limit: u32) -> bool {
    let length = row.fetch_add(1, Relaxed).saturating_add(1);
    limit != 0 && length >= limit && row.compare_exchange(length, 0, Relaxed, Relaxed).is_ok()
}

#[cfg(all(loom, test))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    fn limits() -> Limits {
        let limits = Limits::default();
        limits.consecutive.store(2, Relaxed);
        limits.latency.store(true, Relaxed);
        limits
    }

    #[test]
    fn loom_a_row_that_two_complete_together_is_found_once_and_never_missed() {
        loom::model(|| {
            let (tally, limits) = (Arc::new(Tally::default()), Arc::new(limits()));
            let other = {
                let (tally, limits) = (tally.clone(), limits.clone());
                thread::spawn(move || u32::from(tally.failed(Origin::Remote, &limits).any))
            };
            let own = u32::from(tally.failed(Origin::Remote, &limits).any);
            let after = u32::from(tally.failed(Origin::Remote, &limits).any);
            let found = own + after + other.join().unwrap();
            assert_eq!(found, 1, "three failures, a row of two: it is found by the second or by the third");
        });
    }

    #[test]
    fn loom_a_sweep_takes_each_call_once() {
        loom::model(|| {
            let (tally, limits) = (Arc::new(Tally::default()), Arc::new(limits()));
            let calls = {
                let (tally, limits) = (tally.clone(), limits.clone());
                thread::spawn(move || {
                    tally.succeeded(5, &limits);
                    tally.failed(Origin::Local, &limits);
                })
            };
            let during = tally.take();
            calls.join().unwrap();
            let after = tally.take();
            assert_eq!((during.total + after.total, during.failed + after.failed), (2, 1));
            assert_eq!(during.good_ns + after.good_ns, 5);
            assert!(during.local <= during.failed && after.local <= after.failed);
        });
    }
}
