//! A token bucket over traffic whose contents expire (Finagle's retry budget over a leaky bucket).
//!
//! Every request deposits, every retry withdraws `1 / ratio` times as much, and both are forgotten when they are one ttl old. Whole numbers throughout,
//! so that 60 % is 60 % and not every request.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tower_mesh_core::Tick;

use crate::config::BudgetConfig;

/// How many slices the ttl is cut into: contents expire slice by slice.
pub const SLICES: u64 = 10;

/// A budget's configuration in units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Units {
    /// What a request brings.
    pub deposit: i64,
    /// What a retry costs.
    pub withdrawal: i64,
    /// What is there without any request.
    pub reserve: i64,
}

impl Units {
    /// The units of `config`. Sums saturate for ratios that allow practically nothing.
    pub fn new(config: &BudgetConfig) -> Self {
        const DEPOSIT: i64 = 1000;
        let ratio = config.ratio();
        let (deposit, withdrawal) =
            if ratio > 0.0 { (DEPOSIT, ((DEPOSIT as f64 / ratio) as i64).max(1)) } else { (0, 1) };
        // In two steps, so that a ttl of part of a second keeps that part.
        let retries = i128::from(config.min_per_second()) * config.ttl().as_millis() as i128 / 1000;
        let reserve = i64::try_from(retries * i128::from(withdrawal)).unwrap_or(i64::MAX);
        Self { deposit, withdrawal, reserve }
    }

    /// How many retries `units` are enough for.
    pub fn retries(&self, units: i64) -> u64 {
        u64::try_from(units / self.withdrawal).unwrap_or(0)
    }
}

/// How many retries may be under way beside `active` calls: the share `ratio` of them, rounded down, and at least `least` (Envoy).
pub(crate) fn concurrency_limit(ratio: f64, active: u32, least: u32) -> u32 {
    const SCALE: u64 = 1_000_000;
    // In whole millionths, so that a fifth of twenty is four.
    let share = (ratio * SCALE as f64).round() as u64 * u64::from(active) / SCALE;
    u32::try_from(share).unwrap_or(u32::MAX).max(least)
}

/// What was put in and taken out during the last [`SLICES`] slices of time, and a reserve.
///
/// A slice may be negative, if more was taken than put in while it lasted; what was taken from the reserve returns when that slice expires. Slices are
/// counted by whoever comes: one ends when somebody finds it a tenth of the ttl old, and the next begins at that moment. So with steady traffic
/// contents expire after one ttl, and with gaps somewhat later.
#[derive(Debug, Clone)]
pub struct LeakyBucket {
    slices: [i64; SLICES as usize],
    slice: u64,
    began: Option<Tick>,
    length: Duration,
    reserve: i64,
}

impl LeakyBucket {
    /// A bucket with nothing but `reserve`. Its first slice begins at the first use.
    pub const fn new(ttl: Duration, reserve: i64) -> Self {
        Self { slices: [0; SLICES as usize], slice: 0, began: None, length: slice_length(ttl), reserve }
    }

    /// Another reserve; what was put and taken stays.
    pub fn set_reserve(&mut self, reserve: i64) {
        self.reserve = reserve;
    }

    /// Ends the slice under way if it is over at `now`; the number of the one that is under way then, which never falls.
    pub fn roll(&mut self, now: Tick) -> u64 {
        let ended = self.ended(now);
        if ended > 0 || self.began.is_none() {
            self.began = Some(now);
        }
        self.slice += ended;
        for age in 0..ended.min(SLICES) {
            self.slices[index(self.slice - age)] = 0;
        }
        self.slice
    }

    /// The slice under way at `now`, if it were rolled: for a look that changes nothing.
    pub fn slice_at(&self, now: Tick) -> u64 {
        self.slice + self.ended(now)
    }

    /// Puts `amount` in.
    pub fn put(&mut self, now: Tick, amount: i64) {
        let slice = self.roll(now);
        self.slices[index(slice)] += amount;
    }

    /// Takes `amount` out if there is as much, counting `elsewhere` as being here.
    pub fn try_get(&mut self, now: Tick, amount: i64, elsewhere: i64) -> bool {
        let slice = self.roll(now);
        let enough = self.balance(now).saturating_add(elsewhere) >= amount;
        if enough {
            self.slices[index(slice)] -= amount;
        }
        enough
    }

    /// What is there, the reserve included; less than nothing if what paid for withdrawals has expired before them.
    pub fn balance(&self, now: Tick) -> i64 {
        let ended = self.ended(now);
        let alive = (0..SLICES.saturating_sub(ended)).filter_map(|age| self.slice.checked_sub(age));
        let sum: i64 = alive.map(|slice| self.slices[index(slice)]).sum();
        self.reserve.saturating_add(sum)
    }

    /// How many slices have ended since the one under way began.
    fn ended(&self, now: Tick) -> u64 {
        let old = self.began.map_or(Duration::ZERO, |began| now.since(began));
        u64::try_from(old.as_nanos() / self.length.as_nanos()).unwrap_or(u64::MAX / 2)
    }
}

/// How long a slice is: a tenth of `ttl`.
pub(crate) const fn slice_length(ttl: Duration) -> Duration {
    let ns = ttl.as_nanos() / SLICES as u128;
    if ns == 0 {
        return Duration::from_nanos(1);
    }
    Duration::from_nanos(if ns > u64::MAX as u128 { u64::MAX } else { ns as u64 })
}

fn index(slice: u64) -> usize {
    (slice % SLICES) as usize
}

/// Counts of the last [`SLICES`] slices that one thread at a time adds to and any thread may read, on
/// cache lines of their own.
///
/// Each word holds the number of its slice and a count, so that an add is one atomic operation, and a word left over from an earlier
/// round is recognised.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Stripe([AtomicU64; SLICES as usize]);

const COUNT: u64 = u32::MAX as u64;

impl Stripe {
    /// Counts one.
    #[inline]
    pub(crate) fn add(&self, slice: u64) {
        let word = &self.0[index(slice)];
        let stamp = (slice & COUNT) << 32;
        let mut seen = word.load(Relaxed);
        while age(slice, seen) > 0 {
            match word.compare_exchange_weak(seen, stamp | 1, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
        // Whoever is late by a whole round counts in the newer slice: one more there, which is harmless.
        word.fetch_add(1, Relaxed);
    }

    /// How many there are in `slice` that have not expired.
    pub(crate) fn count(&self, slice: u64) -> u64 {
        let words = self.0.iter().map(|word| word.load(Relaxed));
        words.filter(|&word| (0..SLICES as i32).contains(&age(slice, word))).map(|word| word & COUNT).sum()
    }
}

/// By how many slices `word` is older than `slice`. Stamps wrap.
fn age(slice: u64, word: u64) -> i32 {
    (slice as u32).wrapping_sub((word >> 32) as u32) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(ratio: f64, min_per_second: u32, ttl: u64) -> Units {
        let config = BudgetConfig::builder().ratio(ratio).min_per_second(min_per_second);
        Units::new(&config.ttl(Duration::from_secs(ttl)).build().unwrap())
    }

    #[test]
    fn any_allowed_configuration_has_units_without_overflow() {
        assert_eq!(units(0.0, 5, 2), Units { deposit: 0, withdrawal: 1, reserve: 10 });
        let tiny = units(f64::MIN_POSITIVE, u32::MAX, 60);
        assert_eq!((tiny.reserve, tiny.retries(tiny.reserve)), (i64::MAX, 1));
        assert_eq!(units(1000.0, 0, 1).withdrawal, 1);
        assert_eq!(units(1000.0, 0, 1).retries(-5), 0);
    }

    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin; it does not pass")]
    fn start() -> Tick {
        Tick::of(std::time::Instant::now())
    }

    const SLICE: Duration = Duration::from_millis(300);
    const TTL: Duration = Duration::from_secs(3);

    #[test]
    fn contents_expire_when_they_are_one_ttl_old() {
        let (mut bucket, start) = (LeakyBucket::new(TTL, 0), start());
        for n in 0..200 {
            bucket.put(start + n * SLICE, i64::from(n));
            let alive = n.saturating_sub(9)..=n;
            let now = start + n * SLICE + SLICE / 2;
            assert_eq!(bucket.balance(now), i64::from(alive.sum::<u32>()));
            assert_eq!(bucket.balance(start + n * SLICE), bucket.balance(now), "time does not go back");
        }
        assert_eq!(bucket.balance(start + 210 * SLICE), 0);
        bucket.put(start + 1_000_000 * SLICE, 2);
        assert_eq!(
            bucket.balance(start + 1_000_000 * SLICE),
            2,
            "nothing old comes back when the ring is used again"
        );
    }

    #[test]
    fn a_look_changes_nothing() {
        let (mut bucket, start) = (LeakyBucket::new(TTL, 0), start());
        bucket.put(start, 5);
        assert_eq!(bucket.balance(start + TTL), 0);
        assert_eq!(bucket.slice_at(start + TTL), 10);
        assert_eq!(bucket.balance(start), 5);
    }

    #[test]
    fn what_is_spent_of_the_reserve_returns_when_the_negative_slice_expires() {
        let (mut bucket, start) = (LeakyBucket::new(TTL, 10), start());
        assert!(bucket.try_get(start, 6, 0));
        let later = start + 9 * SLICE;
        assert!(!bucket.try_get(later, 6, 0));
        assert!(bucket.try_get(later, 6, 2), "what lies elsewhere counts");
        assert_eq!(bucket.balance(later), -2);
        assert_eq!(bucket.balance(later + SLICE), 4);
        assert_eq!(bucket.balance(later + TTL), 10);
    }

    /// Looking in between makes slices longer: each begins when the last was found over, so three looks a second apart end nine slices of 0.3 s, not ten.
    #[test]
    fn a_slice_begins_when_the_last_is_found_over() {
        let (mut bucket, start) = (LeakyBucket::new(TTL, 1), start());
        let second = Duration::from_secs(1);
        assert!(bucket.try_get(start, 1, 0));
        for n in 1..=3 {
            assert!(!bucket.try_get(start + n * second, 1, 0));
        }
        assert!(bucket.try_get(start + 4 * second, 1, 0));
        assert!(bucket.try_get(start + 7 * second, 1, 0), "all at once they are ten");
    }

    #[test]
    fn a_stripe_counts_what_has_not_expired() {
        let stripe = Stripe::default();
        for slice in 0..100 {
            (0..slice).for_each(|_| stripe.add(slice));
            let alive = slice.saturating_sub(9)..=slice;
            assert_eq!(stripe.count(slice), alive.sum::<u64>());
        }
        assert_eq!(stripe.count(109), 0);
        let wrapped = Stripe::default();
        wrapped.add(COUNT);
        wrapped.add(COUNT + 1);
        assert_eq!(wrapped.count(COUNT + 1), 2);
    }
}
