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

/// How chance enters a delay, where `cur` is the delay before it, at most `max`. Shares are in percent; more than 100 is taken as 100.
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
    /// `cur`, give or take this share of it (gRPC: 20). It comes after the cap, so that a delay may exceed `max` by as much.
    Proportional(u8),
    /// `cur` and up to this share of it on top, within `max` (Linkerd: 50). At `max` there is no room for it, and clients are in step again.
    Additive(u8),
    /// `cur`, give or take this share of it, within `max` (Polly: 25; resilience4j: 50).
    Symmetric(u8),
}

/// How a delay grows from one failure to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Growth {
    /// Not at all: always the base.
    Constant,
    /// By this much.
    Linear(Duration),
    /// By this factor; less than 1 is taken as 1.
    Exponential(f64),
}

impl Default for Growth {
    /// Twice as long each time.
    fn default() -> Self {
        Self::Exponential(2.0)
    }
}

/// A growing delay: from a base to a largest value, doubling unless told otherwise, with jitter.
///
/// ```
/// use std::time::Duration;
/// use tower_mesh_core::backoff::{Backoff, Chance, Jitter};
/// let backoff = Backoff::new(Duration::from_millis(25), Duration::from_millis(250), Jitter::Full);
/// let delay = backoff.delay(3, Duration::ZERO, Chance::Uniform(0.5));
/// assert_eq!(delay, Duration::from_millis(50));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    jitter: Jitter,
    growth: Growth,
}

impl Backoff {
    /// Doubling from `base` to at most `max`. A `max` below `base` lowers the base.
    pub const fn new(base: Duration, max: Duration, jitter: Jitter) -> Self {
        Self { base, max, jitter, growth: Growth::Exponential(2.0) }
    }

    /// The same, growing in another way.
    pub const fn growing(mut self, growth: Growth) -> Self {
        self.growth = growth;
        self
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

    /// How it grows.
    pub const fn growth(&self) -> Growth {
        self.growth
    }

    /// The delay before jitter, for attempts from 1: `min(base · 2^(attempt − 1), max)` if it doubles. Saturates, never overflows.
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let steps = attempt.saturating_sub(1);
        let base = nanos(self.base);
        let ns = match self.growth {
            Growth::Constant => base,
            Growth::Linear(step) => base.saturating_add(nanos(step).saturating_mul(u64::from(steps))),
            Growth::Exponential(2.0) => base.saturating_mul(1_u64.checked_shl(steps).unwrap_or(u64::MAX)),
            // A float that is too large for an integer becomes the largest one; zero stays zero, however often it is multiplied.
            Growth::Exponential(_) if base == 0 => 0,
            Growth::Exponential(factor) => {
                let power = i32::try_from(steps).unwrap_or(i32::MAX);
                (base as f64 * factor.max(1.0).powi(power)) as u64
            }
        };
        Duration::from_nanos(ns.min(nanos(self.max)))
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
            Jitter::Proportional(percent) => either_way(ceiling, percent, chance),
            Jitter::Symmetric(percent) => either_way(ceiling, percent, chance).min(self.max),
            Jitter::Additive(percent) => {
                let most = share(ceiling, percent);
                ceiling.saturating_add(most.mul_f64(chance.uniform())).min(self.max)
            }
        }
    }
}

/// `percent` of `delay`.
fn share(delay: Duration, percent: u8) -> Duration {
    // In nanoseconds of 64 bits, in which every delay here fits: no overflow.
    Duration::from_nanos((u128::from(nanos(delay)) * u128::from(percent.min(100)) / 100) as u64)
}

/// `delay`, give or take `percent` of it.
fn either_way(delay: Duration, percent: u8, chance: Chance) -> Duration {
    let share = share(delay, percent);
    (delay - share).saturating_add(share.mul_f64(2.0 * chance.uniform()))
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
        let jitters = [Jitter::Full, Jitter::Equal, Jitter::Decorrelated, Jitter::Symmetric(25)];
        for jitter in jitters {
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

    #[test]
    fn every_growth_and_jitter_stays_within_its_bounds_for_any_attempt() {
        let growths = [
            Growth::Constant,
            Growth::Linear(3 * MS),
            Growth::Linear(Duration::MAX),
            Growth::Exponential(1.6),
            Growth::Exponential(0.0),
            Growth::Exponential(f64::NAN),
            Growth::Exponential(f64::INFINITY),
        ];
        let jitters = [Jitter::Proportional(20), Jitter::Additive(50), Jitter::Symmetric(200)];
        for (growth, jitter) in growths.into_iter().flat_map(|g| jitters.map(|j| (g, j))) {
            for (base, max) in [(Duration::ZERO, 90 * MS), (5 * MS, 90 * MS), (MS, Duration::MAX)] {
                let backoff = Backoff::new(base, max, jitter).growing(growth);
                for attempt in [1, 2, 3, 100, u32::MAX] {
                    let delay = backoff.delay(attempt, Duration::ZERO, Chance::Uniform(0.999));
                    let most =
                        if jitter == Jitter::Proportional(20) { max.saturating_mul(6) / 5 } else { max };
                    assert!(delay <= most, "{growth:?} {jitter:?} {attempt}: {delay:?}");
                    assert!(delay >= backoff.ceiling(attempt).min(base), "{growth:?} {jitter:?} {attempt}");
                }
            }
        }
    }
}
