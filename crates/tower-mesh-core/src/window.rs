//! Counting the outcomes of the recent past, over the last so many calls or the last so much time.
//!
//! Both kinds truly slide and are shared by all threads without a lock. Integer counts in a ring, not a decaying average: in a
//! tight burst an average gives each sample almost no weight, so the burst stays unseen.

use std::ops::Deref;
use std::time::Duration;

use crate::ratio::Ratio;
use crate::sync::atomic::{
    AtomicU8, AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use crate::tick::{Tick, nanos};

/// One recorded call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sample {
    /// It failed.
    pub failed: bool,
    /// It was slow, whether or not it failed.
    pub slow: bool,
}

/// What a window holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WindowCounts {
    /// Calls.
    pub total: u64,
    /// Failed calls.
    pub failed: u64,
    /// Slow calls.
    pub slow: u64,
}

impl WindowCounts {
    /// Whether failures make up at least `threshold` of at least `min_calls` calls. An empty window never does.
    pub fn failure_rate_reached(&self, threshold: Ratio, min_calls: u64) -> bool {
        self.total >= min_calls && threshold.is_reached_by(self.failed, self.total)
    }

    /// Whether slow calls make up at least `threshold` of at least `min_calls` calls. An empty window never does.
    pub fn slow_rate_reached(&self, threshold: Ratio, min_calls: u64) -> bool {
        self.total >= min_calls && threshold.is_reached_by(self.slow, self.total)
    }
}

/// A window over calls or over time.
#[derive(Debug)]
pub enum Window {
    /// Over the last so many calls.
    Count(CountWindow),
    /// Over the last so much time.
    Time(TimeWindow),
}

impl Window {
    /// Takes in one call that ended at `now`.
    #[inline]
    pub fn record(&self, now: Tick, sample: Sample) {
        match self {
            Self::Count(window) => window.record(sample),
            Self::Time(window) => window.record(now, sample),
        }
    }

    /// Reads what [`record`](Self::record) will write, so that it is on its way from memory, and makes nothing of it.
    #[inline]
    pub fn read_ahead(&self) {
        if let Self::Time(window) = self {
            let newest = window.newest.load(Relaxed);
            std::hint::black_box(window.buckets[newest::place(newest)].total.load(Relaxed));
        }
    }

    /// What it holds at `now`. Reading changes nothing.
    pub fn counts(&self, now: Tick) -> WindowCounts {
        match self {
            Self::Count(window) => window.counts(),
            Self::Time(window) => window.counts(now),
        }
    }

    /// Whether it may hold a failed or slow call at `now`. `false` is true of every call recorded
    /// before; one that another thread is just recording may show only with the next. It costs one or two loads.
    #[inline]
    pub fn may_hold_bad(&self, now: Tick) -> bool {
        match self {
            Self::Count(window) => window.bad.load(Relaxed) != 0,
            Self::Time(window) => window.may_hold_bad(now),
        }
    }

    /// Empties it.
    pub fn clear(&self) {
        match self {
            Self::Count(window) => window.clear(),
            Self::Time(window) => window.clear(),
        }
    }
}

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

    fn clear(&self) {
        // Slot by slot through the same exchange as recording, so that the sums stay those of the slots.
        for slot in &self.slots {
            let old = slot.swap(0, AcqRel);
            self.bad.fetch_sub(Self::packed(old), AcqRel);
        }
        self.next.store(0, Release);
    }
}

/// The calls of the last `window`, in buckets of equal width; a bucket leaves as a whole.
///
/// What a call touches lies together, in this order: with thousands of windows each further line of memory is a cache miss.
#[derive(Debug)]
#[repr(C)]
pub struct TimeWindow {
    /// The number of the newest bucket and its place: see [`newest`]; [`BUSY`] is set while somebody clears the way for a newer one.
    newest: AtomicU64,
    /// One more than the number of the newest bucket that saw a bad call; 0 for none.
    last_bad: AtomicU64,
    origin: Tick,
    width_ns: u64,
    buckets: Buckets,
}

/// As many as a window usually has are kept in place.
#[derive(Debug)]
enum Buckets {
    InPlace([Bucket; USUAL]),
    Apart(Box<[Bucket]>),
}

const USUAL: usize = 10;

impl Buckets {
    fn new(count: usize) -> Self {
        if count == USUAL {
            Self::InPlace(Default::default())
        } else {
            Self::Apart((0..count).map(|_| Bucket::default()).collect())
        }
    }
}

impl Deref for Buckets {
    type Target = [Bucket];

    #[inline]
    fn deref(&self) -> &[Bucket] {
        match self {
            Self::InPlace(buckets) => buckets,
            Self::Apart(buckets) => buckets,
        }
    }
}

#[derive(Debug, Default)]
struct Bucket {
    /// All calls, bad or not: the usual call is one addition.
    total: AtomicU32,
    failed: AtomicU32,
    slow: AtomicU32,
}

impl Bucket {
    #[inline]
    fn add(&self, sample: Sample) {
        self.total.fetch_add(1, Relaxed);
        if sample.failed {
            self.failed.fetch_add(1, Relaxed);
        }
        if sample.slow {
            self.slow.fetch_add(1, Relaxed);
        }
    }

    /// Bad calls are read first and added last: at worst one is not counted as bad yet.
    fn counts(&self) -> WindowCounts {
        let read = |count: &AtomicU32| u64::from(count.load(Relaxed));
        let (failed, slow) = (read(&self.failed), read(&self.slow));
        let total = read(&self.total);
        WindowCounts { total, failed: failed.min(total), slow: slow.min(total) }
    }

    /// By exchange, as recording is: whoever comes late is before this or after it, and nothing in between. What is zero stays untouched.
    fn clear(&self) {
        for count in [&self.total, &self.failed, &self.slow] {
            if count.load(Relaxed) != 0 {
                count.swap(0, Relaxed);
            }
        }
    }
}

const BUSY: u64 = 1 << 63;

/// The newest bucket as one word: its place in the ring in the low bits, so that a call need not divide, and above it its number.
mod newest {
    use super::BUSY;

    const PLACE: u32 = 16;
    pub(super) const MAX_BUCKETS: u32 = 1 << PLACE;

    pub(super) fn of(number: u64, buckets: usize) -> u64 {
        (number << PLACE) | (number % buckets as u64)
    }

    #[inline]
    pub(super) fn number(word: u64) -> u64 {
        (word & !BUSY) >> PLACE
    }

    #[inline]
    pub(super) fn place(word: u64) -> usize {
        (word % u64::from(MAX_BUCKETS)) as usize
    }
}

impl TimeWindow {
    /// A window of `window` in `buckets` buckets (at least 1, at most 65 536), each at least 1 ms wide, aligned to `origin`.
    pub fn new(window: Duration, buckets: u32, origin: Tick) -> Self {
        let buckets = buckets.clamp(1, newest::MAX_BUCKETS);
        Self {
            newest: AtomicU64::new(0),
            last_bad: AtomicU64::new(0),
            origin,
            width_ns: (nanos(window) / u64::from(buckets)).max(1_000_000),
            buckets: Buckets::new(buckets as usize),
        }
    }

    /// Takes in one call that ended at `now`.
    #[inline]
    pub fn record(&self, now: Tick, sample: Sample) {
        let newest = self.newest.load(Acquire);
        let newest = if self.is_within(newest, now) { newest } else { self.advance(self.number_at(now)) };
        self.buckets[newest::place(newest)].add(sample);
        if sample.failed || sample.slow {
            self.last_bad.fetch_max(newest::number(newest) + 1, Relaxed);
        }
    }

    /// What it holds at `now`.
    pub fn counts(&self, now: Tick) -> WindowCounts {
        let newest = newest::number(self.newest.load(Acquire));
        let last = self.number_at(now).max(newest);
        let first = (last + 1).saturating_sub(self.buckets.len() as u64);
        let mut counts = WindowCounts::default();
        for number in first..=newest {
            let bucket = self.buckets[(number % self.buckets.len() as u64) as usize].counts();
            counts.total += bucket.total;
            counts.failed += bucket.failed;
            counts.slow += bucket.slow;
        }
        counts
    }

    #[inline]
    fn may_hold_bad(&self, now: Tick) -> bool {
        let last_bad = self.last_bad.load(Relaxed);
        last_bad != 0 && last_bad + self.buckets.len() as u64 > self.number_at(now) + 1
    }

    /// Whether bucket `newest`, which nobody is clearing the way past, is still the one for `now`: the usual case, and no division.
    #[inline]
    fn is_within(&self, newest: u64, now: Tick) -> bool {
        now.nanos_since(self.origin) < (newest::number(newest) + 1).wrapping_mul(self.width_ns)
            && newest & BUSY == 0
    }

    #[inline]
    fn number_at(&self, now: Tick) -> u64 {
        now.nanos_since(self.origin) / self.width_ns
    }

    /// Moves the window on to bucket `number`; the word of the bucket to record into. One thread clears what is entered anew; others do not wait for
    /// it but record into the bucket before.
    #[inline]
    fn advance(&self, number: u64) -> u64 {
        let newest = self.newest.load(Acquire);
        if number <= newest::number(newest) || newest & BUSY != 0 {
            newest & !BUSY
        } else {
            self.enter(newest, number)
        }
    }

    #[cold]
    fn enter(&self, newest: u64, number: u64) -> u64 {
        if let Err(now) = self.newest.compare_exchange(newest, newest | BUSY, AcqRel, Acquire) {
            return now & !BUSY;
        }
        let buckets = self.buckets.len();
        let first = (newest::number(newest) + 1).max((number + 1).saturating_sub(buckets as u64));
        for entered in first..=number {
            self.buckets[(entered % buckets as u64) as usize].clear();
        }
        let newest = newest::of(number, buckets);
        self.newest.store(newest, Release);
        newest
    }

    fn clear(&self) {
        self.buckets.iter().for_each(Bucket::clear);
        self.last_bad.store(0, Relaxed);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "time is an argument; tests need some origin")]
mod tests {
    use super::*;

    const GOOD: Sample = Sample { failed: false, slow: false };
    const BAD: Sample = Sample { failed: true, slow: false };
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

    #[test]
    fn a_time_window_forgets_bucket_by_bucket_and_survives_an_idle_age() {
        let origin = Tick::of(std::time::Instant::now());
        let window = Window::Time(TimeWindow::new(Duration::from_secs(10), 10, origin));
        let at = |s: u64| origin + Duration::from_secs(s);
        window.record(at(0), BAD);
        window.record(at(5), GOOD);
        assert_eq!(window.counts(at(9)).failed, 1);
        assert!(window.may_hold_bad(at(9)));
        assert_eq!(window.counts(at(10)), WindowCounts { total: 1, failed: 0, slow: 0 });
        assert!(!window.may_hold_bad(at(10)));
        let later = 100 * 365 * 86_400;
        assert_eq!(window.counts(at(later)), WindowCounts::default());
        window.record(at(later), BAD);
        assert_eq!(window.counts(at(later)), WindowCounts { total: 1, failed: 1, slow: 0 });
    }

    #[test]
    fn no_call_is_lost_when_threads_record_within_one_bucket() {
        let origin = Tick::of(std::time::Instant::now());
        let window = TimeWindow::new(Duration::from_secs(10), 10, origin);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| window.record(origin, BAD)));
            }
        });
        assert_eq!(window.counts(origin), WindowCounts { total: 40_000, failed: 40_000, slow: 0 });
    }
}

/// Every interleaving of two or three threads, and every value that a relaxed load may see.
#[cfg(all(loom, test))]
#[expect(clippy::disallowed_methods, reason = "time is an argument; tests need some origin")]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    const GOOD: Sample = Sample { failed: false, slow: false };
    const BAD: Sample = Sample { failed: true, slow: false };

    fn together<T: Send + Sync + 'static>(shared: &Arc<T>, others: impl IntoIterator<Item = fn(&T)>) {
        let spawn = |run: fn(&T)| {
            let shared = shared.clone();
            thread::spawn(move || run(&shared))
        };
        let threads: Vec<_> = others.into_iter().map(spawn).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

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

    #[test]
    fn loom_a_time_window_loses_no_call_while_another_thread_moves_it_on() {
        loom::model(|| {
            let origin = Tick::of(std::time::Instant::now());
            let late = origin + Duration::from_millis(1);
            let window = Arc::new(TimeWindow::new(Duration::from_millis(3), 3, origin));
            let spawn = |at: Tick| {
                let window = window.clone();
                thread::spawn(move || window.record(at, BAD))
            };
            let threads = [spawn(origin), spawn(late)];
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(window.counts(late), WindowCounts { total: 2, failed: 2, slow: 0 });
            assert!(window.may_hold_bad(late));
            // Whoever came late recorded where the window was: at most one bucket before its time.
            let gone = origin + Duration::from_millis(4);
            assert_eq!(window.counts(gone).total, 0);
            assert!(!window.may_hold_bad(gone));
        });
    }

    #[test]
    fn loom_one_thread_clears_the_way_and_no_other_waits_for_it() {
        loom::model(|| {
            let origin = Tick::of(std::time::Instant::now());
            let window = Arc::new(TimeWindow::new(Duration::from_millis(2), 2, origin));
            window.record(origin, BAD);
            let later = origin + Duration::from_millis(3);
            let spawn = || {
                let window = window.clone();
                thread::spawn(move || window.record(later, GOOD))
            };
            let threads = [spawn(), spawn()];
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            let counts = window.counts(later);
            assert!(
                counts.total <= 2 && counts.failed == 0,
                "what was before the window is gone: {counts:?}"
            );
            assert!(counts.total >= 1, "whoever moved it on is counted: {counts:?}");
            assert_eq!(window.newest.load(Relaxed) & BUSY, 0);
        });
    }
}
