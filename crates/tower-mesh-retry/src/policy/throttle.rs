//! No retries while too much fails (gRFC A6).

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Tokens that failures take and successes bring back a part of. With half of them gone nothing is sent again.
///
/// Counted in thousandths, so that a ratio of three decimals is exact. One word, and no lock; while it is full a success only looks at it.
#[derive(Debug)]
pub struct Throttle {
    tokens: AtomicU32,
    max: u32,
    ratio: u32,
}

/// A whole token.
const TOKEN: u32 = 1000;

impl Throttle {
    /// Full, with at most `max` tokens, of which a success brings back `ratio`; what that has beyond three decimals is cut off.
    pub fn new(max: u32, ratio: f64) -> Self {
        // One part in a million on top, so that 0.3 is not 0.299.
        let ratio = (ratio * f64::from(TOKEN) * 1.000_001) as u32;
        let max = max.saturating_mul(TOKEN);
        Self { tokens: AtomicU32::new(max), max, ratio }
    }

    /// A call succeeded.
    #[inline]
    pub fn succeeded(&self) {
        if self.tokens.load(Relaxed) < self.max {
            let add = |tokens: u32| Some(tokens.saturating_add(self.ratio).min(self.max));
            let _ = self.tokens.fetch_update(Relaxed, Relaxed, add);
        }
    }

    /// An attempt failed in a way that another could cure, or that the server forbade to try again.
    pub fn failed(&self) {
        let take = |tokens: u32| Some(tokens.saturating_sub(TOKEN));
        let _ = self.tokens.fetch_update(Relaxed, Relaxed, take);
    }

    /// Whether more than half is left.
    pub fn allows(&self) -> bool {
        self.tokens.load(Relaxed) > self.max / 2
    }

    /// What is left, in thousandths.
    pub fn milli_tokens(&self) -> u32 {
        self.tokens.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_half_is_not_enough() {
        let throttle = Throttle::new(3, 0.5);
        throttle.failed();
        assert!(throttle.allows());
        throttle.failed();
        throttle.succeeded();
        assert_eq!((throttle.milli_tokens(), throttle.allows()), (1500, false));
        throttle.succeeded();
        assert!(throttle.allows());
    }

    #[test]
    fn three_decimals_are_exact() {
        for (ratio, milli) in
            [(0.1, 100), (0.3, 300), (0.57, 570), (0.001, 1), (0.5466, 546), (0.29, 290), (7.0, 7000)]
        {
            assert_eq!(Throttle::new(10, ratio).ratio, milli, "{ratio}");
        }
    }

    #[test]
    fn threads_together_lose_no_token_and_leave_the_range_on_neither_side() {
        let throttle = Throttle::new(1000, 1.0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| throttle.failed()));
            }
        });
        assert_eq!(throttle.milli_tokens(), 600_000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..50).for_each(|_| throttle.succeeded()));
            }
        });
        assert_eq!(throttle.milli_tokens(), 800_000);
        (0..2000).for_each(|_| throttle.failed());
        assert_eq!(throttle.milli_tokens(), 0);
        (0..2000).for_each(|_| throttle.succeeded());
        assert_eq!(throttle.milli_tokens(), 1_000_000);
    }
}
