//! How long to wait before doing something again.

use std::time::Duration;

use crate::tick::nanos;

/// One draw from a random source, given to a policy as an argument.
#[derive(Debug, Clone, Copy)]
pub enum Chance {
    /// Raw bits, reduced to a range by remainder.
    Raw(u64),
    /// A number from 0 (included) to 1 (not).
    Uniform(f64),
}

impl Chance {
    /// As a number from 0 (included) to 1 (not).
    pub fn uniform(self) -> f64 {
        match self {
            Self::Raw(bits) => (bits >> 11) as f64 / (1_u64 << 53) as f64,
            Self::Uniform(u) => u,
        }
    }

    /// As a whole number below `bound`; 0 if `bound` is.
    pub fn below(self, bound: u64) -> u64 {
        match self {
            Self::Raw(bits) => bits.checked_rem(bound).unwrap_or(0),
            Self::Uniform(u) => (u * bound as f64) as u64,
        }
    }
}

/// How chance enters a delay, where `cur = min(base · 2^(attempt − 1), max)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Jitter {
    /// `cur` itself. All clients that failed together come back together: for tests and for a single client.
    None,
    /// Anything below `cur` (AWS, Envoy). Spreads best; the default.
    #[default]
    Full,
    /// `base` at first, then from half of `cur` to `cur` (Finagle). For waits that must not be short.
    Equal,
    /// `base` at first, then from the previous delay to three times it, within `max` (AWS).
    Decorrelated,
}

/// A growing delay: doubling from a base to a largest value, with jitter.
///
/// ```
/// use std::time::Duration;
/// use tower_mesh_core::backoff::{Backoff, Chance, Jitter};
/// let backoff = Backoff::new(Duration::from_millis(25), Duration::from_millis(250), Jitter::Full);
/// let delay = backoff.delay(3, Duration::ZERO, Chance::Uniform(0.5));
/// assert_eq!(delay, Duration::from_millis(50));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    jitter: Jitter,
}

impl Backoff {
    /// Doubling from `base` to at most `max`. A `max` below `base` lowers the base.
    pub const fn new(base: Duration, max: Duration, jitter: Jitter) -> Self {
        Self { base, max, jitter }
    }

    /// The first delay, before jitter.
    pub const fn base(&self) -> Duration {
        self.base
    }

    /// The largest delay.
    pub const fn max(&self) -> Duration {
        self.max
    }

    /// How chance enters.
    pub const fn jitter(&self) -> Jitter {
        self.jitter
    }

    /// The delay before jitter: `min(base · 2^(attempt − 1), max)`, for attempts from 1. Saturates, never overflows.
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let factor = 1_u64.checked_shl(attempt.saturating_sub(1)).unwrap_or(u64::MAX);
        let ns = nanos(self.base).saturating_mul(factor).min(nanos(self.max));
        Duration::from_nanos(ns)
    }

    /// The delay after failure number `attempt` (from 1). `previous` is what this gave the time before; only decorrelated jitter looks at it.
    pub fn delay(&self, attempt: u32, previous: Duration, chance: Chance) -> Duration {
        let ceiling = self.ceiling(attempt);
        match self.jitter {
            Jitter::None => ceiling,
            Jitter::Full => Duration::from_nanos(chance.below(nanos(ceiling))),
            Jitter::Equal | Jitter::Decorrelated if attempt <= 1 => ceiling,
            Jitter::Equal => {
                let half = ceiling / 2;
                half + half.mul_f64(chance.uniform())
            }
            Jitter::Decorrelated => {
                let widest = previous.saturating_mul(3).min(self.max);
                // Once at the maximum the range would be a point and all clients in step again: spread over the whole range instead.
                let from = if previous >= self.max { self.base.min(self.max) } else { previous };
                from + widest.saturating_sub(from).mul_f64(chance.uniform())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn growth_saturates_at_the_maximum_for_any_attempt() {
        let backoff = Backoff::new(86_400_000 * MS, 172_800_000 * MS, Jitter::None);
        assert_eq!(backoff.delay(1001, Duration::ZERO, Chance::Raw(0)), 172_800_000 * MS);
        let endless = Backoff::new(MS, Duration::MAX, Jitter::None);
        assert!(endless.ceiling(u32::MAX) > Duration::from_secs(500 * 365 * 86_400));
    }

    #[test]
    fn nothing_is_in_step_at_the_maximum() {
        for jitter in [Jitter::Full, Jitter::Equal, Jitter::Decorrelated] {
            let backoff = Backoff::new(MS, 8 * MS, jitter);
            let low = backoff.delay(30, 8 * MS, Chance::Uniform(0.1));
            let high = backoff.delay(30, 8 * MS, Chance::Uniform(0.9));
            assert!(low < high && high <= 8 * MS, "{jitter:?}: {low:?} {high:?}");
        }
    }

    #[test]
    fn a_zero_base_gives_zero_and_does_not_divide_by_it() {
        let backoff = Backoff::new(Duration::ZERO, MS, Jitter::Full);
        assert_eq!(backoff.delay(1, Duration::ZERO, Chance::Raw(7)), Duration::ZERO);
    }
}
