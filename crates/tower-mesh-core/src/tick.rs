//! The time that the call path counts in.

use std::num::NonZeroU64;
use std::ops::Add;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A reading of the monotonic clock in nanoseconds since an origin of the process.
///
/// An [`Instant`] as one word: made once per reading, after which comparing, subtracting and storing it in an atomic cost next to nothing.
/// Policies take it as an argument; the shells read it from their runtime's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tick(NonZeroU64);

impl Tick {
    /// The reading `at`. Before the origin (an hour before the first reading of all) it stays there.
    #[inline]
    pub fn of(at: Instant) -> Self {
        Self::from_nanos(nanos(at.saturating_duration_since(origin(at))))
    }

    /// The reading as an [`Instant`].
    pub fn instant(self) -> Instant {
        // The origin is set, or there would be no reading.
        let base = ORIGIN.get().copied();
        base.map_or_else(
            || unreachable!("a tick is made from an origin"),
            |origin| origin + Duration::from_nanos(self.0.get()),
        )
    }

    #[inline]
    pub(crate) fn from_nanos(ns: u64) -> Self {
        Self(NonZeroU64::new(ns).unwrap_or(NonZeroU64::MIN))
    }

    /// Nanoseconds since the origin: to be kept in an atomic and compared with others.
    #[inline]
    pub fn as_nanos(self) -> u64 {
        self.0.get()
    }

    /// The time since `earlier`; zero if that is later.
    #[inline]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos_since(earlier))
    }

    /// The nanoseconds since `earlier`; zero if that is later.
    #[inline]
    pub fn nanos_since(self, earlier: Self) -> u64 {
        self.as_nanos().saturating_sub(earlier.as_nanos())
    }
}

impl Add<Duration> for Tick {
    type Output = Self;

    /// That much later; at most the end of time, 584 years on.
    #[inline]
    fn add(self, duration: Duration) -> Self {
        Self::from_nanos(self.as_nanos().saturating_add(nanos(duration)))
    }
}

static ORIGIN: OnceLock<Instant> = OnceLock::new();

#[inline]
fn origin(first: Instant) -> Instant {
    /// Readings taken a little before the first one are still told apart.
    const MARGIN: Duration = Duration::from_secs(3600);
    *ORIGIN.get_or_init(|| first.checked_sub(MARGIN).unwrap_or(first))
}

/// Nanoseconds in 64 bits: 584 years, then it stays at the end.
#[inline]
pub(crate) fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "time is an argument; tests need some instant")]
mod tests {
    use super::*;

    #[test]
    fn ticks_keep_order_and_distance_and_turn_back_into_instants() {
        let now = Instant::now();
        let (a, b) = (Tick::of(now), Tick::of(now + Duration::from_nanos(7)));
        assert_eq!((b.nanos_since(a), a.nanos_since(b)), (7, 0));
        assert_eq!(a + Duration::from_nanos(7), b);
        assert_eq!(b.instant(), now + Duration::from_nanos(7));
        assert_eq!((a + Duration::MAX).as_nanos(), u64::MAX);
    }
}
