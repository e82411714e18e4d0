//! The availability word: each layer sets and clears its own reason, and a pick reads them all.

use super::{BITS, EndpointHandle, PICKING};
use crate::availability::{Availability, Reason};
use crate::prefetch::{prefetch, prefetch_beside};
use crate::sync::atomic::Ordering;
use crate::sync::statics::AtomicU64 as StaticU64;
use crate::tick::Tick;

/// On a line of its own: read by many threads, seldom written.
#[repr(align(128))]
struct Changes(StaticU64);

static CHANGES: Changes = Changes(StaticU64::new(0));

impl EndpointHandle {
    /// The reasons that hold now. Reading changes nothing.
    #[inline]
    pub fn availability(&self) -> Availability {
        Availability::from_bits((self.0.hot.word.load(Ordering::Acquire) & BITS) as u16)
    }

    /// Sets `reason`; whether that changed anything.
    pub fn set(&self, reason: Reason) -> bool {
        let bit = u32::from(Availability::from_iter([reason]).bits());
        let changed = self.0.hot.word.fetch_or(bit, Ordering::AcqRel) & bit == 0;
        Self::count_change(changed, bit);
        changed
    }

    /// Clears `reason`; whether that changed anything.
    pub fn clear(&self, reason: Reason) -> bool {
        let bit = u32::from(Availability::from_iter([reason]).bits());
        let changed = self.0.hot.word.fetch_and(!bit, Ordering::AcqRel) & bit != 0;
        Self::count_change(changed, bit);
        changed
    }

    /// How often any endpoint of this process has become better or worse to pick. What was added up over many endpoints holds while this stays the same; it is
    /// to be read before them.
    #[inline]
    pub fn changes() -> u64 {
        CHANGES.0.load(Ordering::Acquire)
    }

    pub(super) fn count_change(changed: bool, bit: u32) {
        if changed && bit & PICKING != 0 {
            CHANGES.0.fetch_add(1, Ordering::Release);
        }
    }

    /// Asks memory for what a pick reads and a call writes.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(&self.0.hot);
        // The counts, which a clone changes.
        prefetch_beside(&self.0.hot, -1);
    }

    /// Whether nothing at all speaks against picking it: neither a reason that keeps picks away nor one that says it should be avoided.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.0.hot.word.load(Ordering::Acquire) & PICKING == 0
    }

    /// Whether an ordinary pick may take it at `now`: nothing blocks it, or only an open circuit does whose wait is over, so that a
    /// trial call is wanted.
    #[inline]
    pub fn is_pickable(&self, now: Tick) -> bool {
        let available = self.availability();
        !available.is_blocked() || self.wants_trial(available, now)
    }

    #[cold]
    fn wants_trial(&self, available: Availability, now: Tick) -> bool {
        available.contains(Reason::CircuitOpen)
            && !available.without(Reason::CircuitOpen).is_blocked()
            && self.recheck_due(now)
    }
}
