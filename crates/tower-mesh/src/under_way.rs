//! Counting calls that wait.

use std::sync::atomic::{AtomicU64, Ordering};

use tower_mesh_core::sharded::own_shard;

/// How many calls are under way, counted by threads so that they do not fight over one number.
///
/// A call is counted from when it first has to wait: one that is answered at once costs nothing here.
#[derive(Debug, Default)]
pub(crate) struct UnderWay([Stripe; STRIPES]);

const STRIPES: usize = 16;

#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(AtomicU64);

/// Where one call is counted: to be given back to [`UnderWay::end`], once.
#[derive(Debug)]
pub(crate) struct Counted(u8);

impl UnderWay {
    pub(crate) fn begin(&self) -> Counted {
        let stripe = own_shard(STRIPES);
        self.0[stripe].0.fetch_add(1, Ordering::Relaxed);
        Counted(stripe as u8)
    }

    // The call may end on another thread: each stripe counts down what it counted up, and so is never negative.
    pub(crate) fn end(&self, Counted(stripe): Counted) {
        self.0[usize::from(stripe)].0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|stripe| stripe.0.load(Ordering::Relaxed)).sum()
    }
}
