//! A percentile of the latencies of the recent past, always at hand.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tower_mesh_core::Tick;

/// Counts latencies in buckets an eighth of their value wide, over the last ten to twenty seconds.
///
/// A percentile is the upper end of its bucket, so it is never too low and at most an eighth too high. Recording is one atomic addition on a line of
/// memory that few threads share; the percentile is worked out anew at most every tenth of a second, by whoever asks.
#[derive(Debug)]
pub(crate) struct Latencies {
    /// Two generations: the one that is filled, and the one before it.
    counts: Box<[Counts]>,
    origin: OnceLock<Tick>,
    /// The number of the generation that is filled.
    generation: AtomicU64,
    /// Nanoseconds; 0 is unknown.
    known: AtomicU64,
    /// When it is to be worked out anew, in nanoseconds since the origin.
    due: AtomicU64,
}

#[derive(Debug)]
#[repr(align(128))]
struct Counts([AtomicU32; BUCKETS]);

/// Up to two hours.
const BUCKETS: usize = 256;
/// Threads beyond this number share.
pub(crate) const STRIPES: usize = 4;
const GENERATION_NS: u64 = 10_000_000_000;
const REFRESH_NS: u64 = 100_000_000;

impl Latencies {
    /// With fewer than this, no percentile is known.
    pub(crate) const MIN_SAMPLES: u64 = 100;

    /// None yet.
    pub(crate) fn new() -> Self {
        let counts = (0..2 * STRIPES).map(|_| Counts([const { AtomicU32::new(0) }; BUCKETS]));
        Self {
            counts: counts.collect(),
            origin: OnceLock::new(),
            generation: AtomicU64::new(0),
            known: AtomicU64::new(0),
            due: AtomicU64::new(0),
        }
    }

    /// Counts one that ended at `now`, by a thread whose stripe is number `thread`.
    pub(crate) fn record(&self, now: Tick, latency: Duration, thread: usize) {
        let generation = self.roll(self.elapsed(now));
        let counts = &self.counts[half(generation) * STRIPES + thread % STRIPES];
        counts.0[bucket(latency)].fetch_add(1, Relaxed);
    }

    /// The latency that the share `percentile` of calls, from 0 to 1, does not exceed; none while too few are known.
    pub(crate) fn percentile(&self, now: Tick, percentile: f64) -> Option<Duration> {
        let elapsed = self.elapsed(now);
        let due = self.due.load(Relaxed);
        if elapsed >= due && self.due.compare_exchange(due, elapsed + REFRESH_NS, Relaxed, Relaxed).is_ok() {
            self.roll(elapsed);
            self.known.store(self.work_out(percentile), Relaxed);
        }
        let known = self.known.load(Relaxed);
        (known > 0).then(|| Duration::from_nanos(known))
    }

    fn elapsed(&self, now: Tick) -> u64 {
        now.nanos_since(*self.origin.get_or_init(|| now))
    }

    /// The generation under way. One that is entered anew is emptied by whoever enters it; what others count meanwhile may be lost.
    fn roll(&self, elapsed: u64) -> u64 {
        let (number, seen) = (elapsed / GENERATION_NS, self.generation.load(Relaxed));
        if number <= seen || self.generation.compare_exchange(seen, number, Relaxed, Relaxed).is_err() {
            return seen.max(number);
        }
        for entered in (seen + 1).max(number - 1)..=number {
            let start = half(entered) * STRIPES;
            let counts = self.counts[start..start + STRIPES].iter().flat_map(|counts| &counts.0);
            counts.for_each(|count| count.store(0, Relaxed));
        }
        number
    }

    fn work_out(&self, percentile: f64) -> u64 {
        let in_bucket = |bucket: usize| -> u64 {
            self.counts.iter().map(|counts| u64::from(counts.0[bucket].load(Relaxed))).sum()
        };
        let total: u64 = (0..BUCKETS).map(in_bucket).sum();
        if total < Self::MIN_SAMPLES {
            return 0;
        }
        let rank = ((total as f64 * percentile).ceil() as u64).clamp(1, total);
        let mut below = 0;
        let found = (0..BUCKETS).find(|&bucket| {
            below += in_bucket(bucket);
            below >= rank
        });
        upper_end(found.unwrap_or(BUCKETS - 1))
    }
}

fn half(generation: u64) -> usize {
    (generation % 2) as usize
}

/// About a microsecond each for the first eight buckets, then eight to each doubling.
fn bucket(latency: Duration) -> usize {
    let units = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX) >> 10;
    if units < 8 {
        return units as usize;
    }
    let exponent = units.ilog2();
    let eighth = (units >> (exponent - 3)) & 7;
    (((exponent - 2) * 8) as usize + eighth as usize).min(BUCKETS - 1)
}

/// In nanoseconds.
fn upper_end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 8 {
        return (bucket + 1) << 10;
    }
    let (exponent, eighth) = (bucket / 8 + 2, bucket % 8);
    ((9 + eighth) << (exponent - 3)) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin; it does not pass")]
    fn start() -> Tick {
        Tick::of(std::time::Instant::now())
    }

    #[test]
    fn every_latency_lies_below_the_upper_end_of_its_bucket_by_at_most_an_eighth() {
        let mut latency = 1_u64 << 13;
        while latency < 6_000_000_000_000 {
            let end = upper_end(bucket(Duration::from_nanos(latency)));
            assert!(end > latency && (end - latency) * 8 <= latency + 8 * 1024, "{latency} {end}");
            latency += latency / 7 + 1;
        }
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_percentile_is_that_of_the_samples_and_unknown_without_them() {
        let (latencies, start) = (Latencies::new(), start());
        assert_eq!(latencies.percentile(start, 0.9), None);
        for n in 1..=1000 {
            latencies.record(start, n * MS, n as usize);
        }
        let known = |p| {
            let later = start + Duration::from_secs(1);
            latencies.due.store(0, Relaxed);
            latencies.percentile(later, p).unwrap()
        };
        for (percentile, exact) in [(0.5, 500), (0.9, 900), (0.99, 990), (1.0, 1000)] {
            let found = known(percentile);
            assert!(found >= exact * MS && found <= exact * MS * 9 / 8, "{percentile}: {found:?}");
        }
    }

    #[test]
    fn what_was_is_forgotten_within_twenty_seconds() {
        let (latencies, start) = (Latencies::new(), start());
        let at = |seconds| start + Duration::from_secs(seconds);
        (0..1000).for_each(|n| latencies.record(at(0), 1000 * MS, n));
        assert!(latencies.percentile(at(9), 0.5).unwrap() >= 1000 * MS);
        (0..1000).for_each(|n| latencies.record(at(11), 10 * MS, n));
        assert!(latencies.percentile(at(12), 0.9).unwrap() >= 1000 * MS, "half of them are old");
        assert!(latencies.percentile(at(21), 0.9).unwrap() <= 12 * MS);
        assert_eq!(latencies.percentile(at(100), 0.9), None);
    }
}
