//! A window over the last so many calls.

use super::{Sample, WindowCounts};
use crate::sync::atomic::{
    AtomicU8, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

/// The last `size` calls, each of which pushes the oldest out.
#[derive(Debug)]
pub struct CountWindow {
    slots: Box<[AtomicU8]>,
    next: AtomicU64,
    /// Failed calls in the low half, slow ones in the high half.
    bad: AtomicU64,
}

impl CountWindow {
    const FAILED: u8 = 1;
    const SLOW: u8 = 2;

    /// A window over the last `size` calls; 0 is taken as 1.
    pub fn new(size: u32) -> Self {
        let slots = (0..size.max(1)).map(|_| AtomicU8::new(0)).collect();
        Self { slots, next: AtomicU64::new(0), bad: AtomicU64::new(0) }
    }

    /// Takes in one call.
    #[inline]
    pub fn record(&self, sample: Sample) {
        let new = (u8::from(sample.failed) * Self::FAILED) | (u8::from(sample.slow) * Self::SLOW);
        let position = self.next.fetch_add(1, AcqRel) % self.slots.len() as u64;
        let old = self.slots[position as usize].swap(new, AcqRel);
        if old != new {
            // Both halves change in one wrapping addition: each stays within 0..=size once all writers are through.
            self.bad.fetch_add(Self::packed(new).wrapping_sub(Self::packed(old)), AcqRel);
        }
    }

    fn packed(slot: u8) -> u64 {
        u64::from(slot & Self::FAILED) | u64::from((slot & Self::SLOW) / Self::SLOW) << 32
    }

    /// What it holds.
    pub fn counts(&self) -> WindowCounts {
        let bad = self.bad.load(Acquire);
        let total = self.next.load(Acquire).min(self.slots.len() as u64);
        WindowCounts { total, failed: (bad & u64::from(u32::MAX)).min(total), slow: (bad >> 32).min(total) }
    }

    #[inline]
    pub(super) fn may_hold_bad(&self) -> bool {
        self.bad.load(Relaxed) != 0
    }

    pub(super) fn clear(&self) {
        // Slot by slot through the same exchange as recording, so that the sums stay those of the slots.
        for slot in &self.slots {
            let old = slot.swap(0, AcqRel);
            self.bad.fetch_sub(Self::packed(old), AcqRel);
        }
        self.next.store(0, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BAD, GOOD};
    use super::*;

    const SLOW: Sample = Sample { failed: false, slow: true };

    #[test]
    fn a_count_window_slides_after_a_long_healthy_history() {
        let window = CountWindow::new(10);
        (0..10_000).for_each(|_| window.record(GOOD));
        (0..5).for_each(|_| window.record(BAD));
        assert_eq!(window.counts(), WindowCounts { total: 10, failed: 5, slow: 0 });
        (0..10).for_each(|_| window.record(SLOW));
        assert_eq!(window.counts(), WindowCounts { total: 10, failed: 0, slow: 10 });
        window.clear();
        assert_eq!(window.counts(), WindowCounts::default());
    }
}

/// Every interleaving of two or three threads, and every value that a relaxed load may see.
#[cfg(all(loom, test))]
mod loom_tests {
    use loom::sync::Arc;

    use super::super::{BAD, GOOD, together};
    use super::*;

    /// The sums are those of the slots once all are through, whoever pushed out whom.
    fn agrees(window: &CountWindow) {
        let failed = window.slots.iter().filter(|slot| slot.load(Relaxed) & CountWindow::FAILED != 0).count();
        assert_eq!(window.bad.load(Relaxed), failed as u64);
    }

    #[test]
    fn loom_a_count_window_loses_nothing_however_its_slots_are_fought_for() {
        loom::model(|| {
            let window = Arc::new(CountWindow::new(2));
            window.record(BAD);
            together(
                &window,
                [(|window| window.record(BAD)) as fn(&CountWindow), |window| window.record(GOOD)],
            );
            agrees(&window);
            let counts = window.counts();
            assert_eq!((counts.total, counts.failed), (2, 1), "the first was pushed out");
        });
    }

    #[test]
    fn loom_a_count_window_stays_whole_when_it_is_cleared_meanwhile() {
        loom::model(|| {
            let window = Arc::new(CountWindow::new(1));
            together(
                &window,
                [(|window| window.record(BAD)) as fn(&CountWindow), |window| {
                    window.clear();
                    let counts = window.counts();
                    assert!(counts.failed <= counts.total && counts.total <= 1);
                }],
            );
            agrees(&window);
        });
    }
}
