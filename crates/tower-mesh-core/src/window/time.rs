//! A window over the last so much time.

use std::time::Duration;

use super::{Sample, WindowCounts};
use crate::sync::atomic::{
    AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use crate::tick::{Tick, nanos};

/// The calls of the last `window`, in buckets of equal width; a bucket leaves as a whole.
///
/// What a good call touches comes first and lies together: with thousands of windows each further line of memory is a cache miss.
#[derive(Debug)]
#[repr(C)]
pub struct TimeWindow {
    /// When the newest bucket ends, in nanoseconds as [`Tick`]s count. [`BUSY`] is set while somebody clears the way for a newer one.
    until: AtomicU64,
    /// Calls since the beginning. It only grows, so that no call is lost to whoever reads, empties or moves on meanwhile.
    calls: AtomicU64,
    /// Until when a bad call stays in the window; 0: there was none.
    bad_until: AtomicU64,
    /// The calls until it was last emptied.
    emptied: AtomicU64,
    origin: Tick,
    width_ns: u64,
    /// One more than are in the window: the last to have left tells how many calls there were before those that are in.
    buckets: Box<[Bucket]>,
}

#[derive(Debug, Default)]
struct Bucket {
    /// What [`TimeWindow::calls`] was at its end, and of which bucket that is told: see [`ended`].
    calls: AtomicU64,
    failed: AtomicU32,
    slow: AtomicU32,
}

impl Bucket {
    /// By exchange, as recording is: whoever comes late is before this or after it, and nothing in between. What is zero stays untouched.
    fn clear(&self) {
        for count in [&self.failed, &self.slow] {
            if count.load(Relaxed) != 0 {
                count.swap(0, AcqRel);
            }
        }
    }
}

/// What [`TimeWindow::calls`] was at the end of a bucket, as one word with the bucket's number: its place is taken by another one as the window moves on, and whoever reads meanwhile must not take
/// the one for the other. Of the number 16 bits are kept, of the calls 48.
mod ended {
    const CALLS: u32 = 48;

    pub(super) fn of(number: u64, calls: u64) -> u64 {
        number << CALLS | calls_of(calls)
    }

    /// The calls, if it is told of bucket `number`.
    pub(super) fn calls(word: u64, number: u64) -> Option<u64> {
        (word >> CALLS == number & (u64::MAX >> CALLS)).then_some(calls_of(word))
    }

    /// So many calls are in no window, so their differences are right.
    pub(super) fn calls_of(word: u64) -> u64 {
        word & ((1 << CALLS) - 1)
    }
}

/// Later than any time within 292 years, so that nobody finds the newest bucket over while it is set.
const BUSY: u64 = 1 << 63;
const MAX_BUCKETS: u32 = 1 << 16;

fn end_of(number: u64, origin: Tick, width_ns: u64) -> u64 {
    origin.as_nanos().saturating_add((number + 1).saturating_mul(width_ns)).min(BUSY - 1)
}

impl TimeWindow {
    /// A window of `window` in `buckets` buckets (at least 1, at most 65 536), each at least 1 ms wide, aligned to `origin`.
    pub fn new(window: Duration, buckets: u32, origin: Tick) -> Self {
        let length = u64::from(buckets.clamp(1, MAX_BUCKETS));
        let width_ns = (nanos(window) / length).max(1_000_000);
        Self {
            until: AtomicU64::new(end_of(0, origin, width_ns)),
            calls: AtomicU64::new(0),
            bad_until: AtomicU64::new(0),
            emptied: AtomicU64::new(0),
            origin,
            width_ns,
            buckets: (0..=length).map(|_| Bucket::default()).collect(),
        }
    }

    /// Takes in one call that ended at `now`.
    #[inline]
    pub fn record(&self, now: Tick, sample: Sample) {
        let mut until = self.until.load(Acquire);
        if now.as_nanos() >= until {
            until = self.advance(now);
        }
        // Whoever sees this call sees what was bad of those before it on this thread.
        self.calls.fetch_add(1, Release);
        if sample.failed || sample.slow {
            self.record_bad(until, sample);
        }
    }

    /// After the call itself, so that whoever sees it as bad sees the call, and in the bucket that was the newest before: it leaves the window with the call or before it.
    fn record_bad(&self, until: u64, sample: Sample) {
        let newest = self.number_until(until);
        let bucket = self.bucket(newest);
        if sample.failed {
            bucket.failed.fetch_add(1, Release);
        }
        if sample.slow {
            bucket.slow.fetch_add(1, Release);
        }
        self.bad_until.fetch_max(self.end_of(newest + self.length() - 1), Relaxed);
    }

    /// What it holds at `now`. Nothing, if other threads move it on by two buckets each of the few times that it is tried: a share of what was there could be taken for a rate.
    pub fn counts(&self, now: Tick) -> WindowCounts {
        (0..3).find_map(|_| self.try_counts(now)).unwrap_or_default()
    }

    fn try_counts(&self, now: Tick) -> Option<WindowCounts> {
        let newest = self.number_until(self.until.load(Acquire));
        let first = (self.number_at(now).max(newest) + 1).saturating_sub(self.length());
        if first > newest {
            return Some(WindowCounts::default());
        }
        // What is bad is read first, added last, and cleared before the ends are written: at worst a call is not counted as bad yet, or no longer.
        let (mut failed, mut slow) = (0, 0);
        for number in first..=newest {
            let bucket = self.bucket(number);
            failed += u64::from(bucket.failed.load(Acquire));
            slow += u64::from(bucket.slow.load(Acquire));
        }
        // Its place is the next to be taken by another bucket, before those that were read.
        let left = match first.checked_sub(1) {
            Some(left) => ended::calls(self.bucket(left).calls.load(Acquire), left)?,
            None => 0,
        };
        let emptied = self.emptied.load(Acquire);
        let calls = self.calls.load(Acquire);
        let total = ended::calls_of(calls.wrapping_sub(left)).min(calls - emptied);
        Some(WindowCounts { total, failed: failed.min(total), slow: slow.min(total) })
    }

    #[inline]
    pub(super) fn may_hold_bad(&self, now: Tick) -> bool {
        now.as_nanos() < self.bad_until.load(Relaxed)
    }

    /// How many buckets are in the window.
    fn length(&self) -> u64 {
        self.buckets.len() as u64 - 1
    }

    /// The number of the bucket that ends at `until`.
    fn number_until(&self, until: u64) -> u64 {
        self.number((until & !BUSY) - 1)
    }

    fn number_at(&self, now: Tick) -> u64 {
        self.number(now.as_nanos())
    }

    fn number(&self, at_ns: u64) -> u64 {
        at_ns.saturating_sub(self.origin.as_nanos()) / self.width_ns
    }

    fn end_of(&self, number: u64) -> u64 {
        end_of(number, self.origin, self.width_ns)
    }

    fn bucket(&self, number: u64) -> &Bucket {
        &self.buckets[(number % self.buckets.len() as u64) as usize]
    }

    /// Moves the window on to `now`; when the bucket ends to record into. One thread writes down how many calls there were and clears what is entered anew. Others do not wait for it:
    /// their calls count in the bucket before.
    #[cold]
    fn advance(&self, now: Tick) -> u64 {
        let until = self.until.load(Acquire);
        if now.as_nanos() < until {
            return until;
        }
        if let Err(until) = self.until.compare_exchange(until, until | BUSY, AcqRel, Acquire) {
            return until;
        }
        let (before, number) = (self.number_until(until), self.number_at(now));
        let places = self.buckets.len() as u64;
        let entered = (before + 1).max((number + 1).saturating_sub(places))..=number;
        entered.clone().for_each(|entered| self.bucket(entered).clear());
        // Calls that came meanwhile belong to the bucket before, as what was bad of them does. If its place was entered anew, that is taken out of it again: only who is
        // between a call and its badness may leave one bad call without the call there.
        let calls = self.calls.load(Acquire);
        if number - before >= places {
            self.bucket(before).clear();
        }
        for ended in entered.map(|entered| entered - 1) {
            self.bucket(ended).calls.store(ended::of(ended, calls), Release);
        }
        let until = self.end_of(number);
        self.until.store(until, Release);
        until
    }

    pub(super) fn clear(&self) {
        // Calls first: better that a bad call beside this counts as a good one than that it is bad without being a call.
        self.emptied.store(self.calls.load(Acquire), Release);
        self.bad_until.store(0, Relaxed);
        self.buckets.iter().for_each(Bucket::clear);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "time is an argument; tests need some origin")]
mod tests {
    use std::mem::offset_of;

    use super::super::{BAD, GOOD, Window};
    use super::*;

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
    fn what_a_good_call_touches_comes_first() {
        assert_eq!(offset_of!(TimeWindow, emptied) + align_of::<TimeWindow>(), Window::HOT);
    }

    #[test]
    fn a_window_that_is_emptied_holds_what_comes_after() {
        let origin = Tick::of(std::time::Instant::now());
        let window = Window::Time(TimeWindow::new(Duration::from_secs(10), 10, origin));
        let at = |s: u64| origin + Duration::from_secs(s);
        for second in 0..15 {
            window.record(at(second), BAD);
        }
        assert_eq!(window.counts(at(15)), WindowCounts { total: 9, failed: 9, slow: 0 });
        window.clear();
        assert_eq!(window.counts(at(15)), WindowCounts::default());
        assert!(!window.may_hold_bad(at(15)));
        (16..20).for_each(|second| window.record(at(second), GOOD));
        window.record(at(20), BAD);
        assert_eq!(window.counts(at(20)), WindowCounts { total: 5, failed: 1, slow: 0 });
        // The four good ones leave one by one, each with its bucket.
        let left = [5, 4, 3, 2, 1].map(|total| WindowCounts { total, failed: 1, slow: 0 });
        assert_eq!([25, 26, 27, 28, 29].map(|second| window.counts(at(second))), left);
        assert_eq!(window.counts(at(30)), WindowCounts::default());
    }

    #[test]
    fn the_number_of_calls_may_outgrow_what_is_written_down_of_it() {
        let origin = Tick::of(std::time::Instant::now());
        let window = TimeWindow::new(Duration::from_secs(3), 3, origin);
        window.calls.store((1 << 48) - 7, Relaxed);
        window.clear();
        for second in 0..10 {
            let now = origin + Duration::from_secs(second);
            (0..2).for_each(|_| window.record(now, BAD));
            let held = 2 * (second + 1).min(3);
            assert_eq!(window.counts(now), WindowCounts { total: held, failed: held, slow: 0 });
        }
    }

    /// Every bucket is kept, however old; one thread.
    #[test]
    fn it_holds_what_a_plain_count_by_bucket_does() {
        let origin = Tick::of(std::time::Instant::now());
        let mut state = 7_u64;
        let mut draw = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for length in [1, 2, 3, 10] {
            let window = TimeWindow::new(Duration::from_millis(length), length as u32, origin);
            let mut by_bucket = std::collections::BTreeMap::<u64, WindowCounts>::new();
            let (mut now_ns, mut newest) = (0, 0);
            for _ in 0..50_000 {
                now_ns += match draw(100) {
                    0 => draw(3 * length * 1_000_000),
                    1..20 => draw(1_000_000),
                    _ => draw(1000),
                };
                // Some come late.
                let late = if draw(10) == 0 { draw(2_000_000).min(now_ns) } else { 0 };
                let now = origin + Duration::from_nanos(now_ns - late);
                let number = (now_ns - late) / 1_000_000;
                match draw(1000) {
                    0 => {
                        window.clear();
                        by_bucket.clear();
                    }
                    1..900 => {
                        let sample = Sample { failed: draw(5) == 0, slow: draw(7) == 0 };
                        window.record(now, sample);
                        newest = number.max(newest);
                        let counts = by_bucket.entry(newest).or_default();
                        counts.total += 1;
                        counts.failed += u64::from(sample.failed);
                        counts.slow += u64::from(sample.slow);
                    }
                    _ => {
                        let first = (number.max(newest) + 1).saturating_sub(length);
                        let mut expected = WindowCounts::default();
                        for counts in by_bucket.range(first..).map(|(_, counts)| counts) {
                            expected.total += counts.total;
                            expected.failed += counts.failed;
                            expected.slow += counts.slow;
                        }
                        assert_eq!(window.counts(now), expected, "{length} buckets");
                        if !window.may_hold_bad(now) {
                            assert_eq!((expected.failed, expected.slow), (0, 0), "{length} buckets");
                        }
                    }
                }
            }
        }
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

    use super::super::{BAD, GOOD};
    use super::*;

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
    fn loom_whoever_reads_while_a_time_window_moves_on_misses_no_call_from_before() {
        loom::model(|| {
            let origin = Tick::of(std::time::Instant::now());
            let late = origin + Duration::from_millis(1);
            let window = Arc::new(TimeWindow::new(Duration::from_millis(3), 3, origin));
            window.record(origin, BAD);
            window.record(origin, GOOD);
            let other = {
                let window = window.clone();
                thread::spawn(move || window.record(late, GOOD))
            };
            for at in [origin, late] {
                let counts = window.counts(at);
                assert!((2..=3).contains(&counts.total) && counts.failed == 1, "{counts:?}");
            }
            other.join().unwrap();
            let two_later = origin + Duration::from_millis(3);
            assert_eq!(window.counts(two_later), WindowCounts { total: 1, failed: 0, slow: 0 });
        });
    }

    #[test]
    fn loom_a_bad_call_does_not_outlast_the_call() {
        loom::model(|| {
            let origin = Tick::of(std::time::Instant::now());
            let at = move |ms| origin + Duration::from_millis(ms);
            let window = Arc::new(TimeWindow::new(Duration::from_millis(3), 3, origin));
            let spawn = |now: Tick, sample| {
                let window = window.clone();
                thread::spawn(move || window.record(now, sample))
            };
            let threads = [spawn(at(0), BAD), spawn(at(1), GOOD)];
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            for now in 0..5 {
                let counts = window.counts(at(now));
                assert_ne!((counts.total, counts.failed), (1, 1), "the good call counts as bad");
            }
        });
    }

    #[test]
    fn loom_of_calls_that_come_while_an_idle_window_moves_on_at_most_one_a_thread_outlasts_itself() {
        loom::model(|| {
            let origin = Tick::of(std::time::Instant::now());
            // The place of the first bucket becomes one in the window.
            let now = origin + Duration::from_millis(4);
            let window = Arc::new(TimeWindow::new(Duration::from_millis(2), 2, origin));
            let other = {
                let window = window.clone();
                thread::spawn(move || (0..2).for_each(|_| window.record(now, BAD)))
            };
            window.record(now, GOOD);
            other.join().unwrap();
            (0..2).for_each(|_| window.record(now, GOOD));
            let counts = window.counts(now);
            assert!(counts.total - counts.failed >= 2, "of two or three good ones: {counts:?}");
        });
    }

    #[test]
    fn loom_whoever_reads_while_a_time_window_moves_far_sees_no_higher_rate() {
        loom::model(|| {
            let origin = Tick::of(std::time::Instant::now());
            let at = move |ms| origin + Duration::from_millis(ms);
            let window = Arc::new(TimeWindow::new(Duration::from_millis(1), 1, origin));
            window.record(at(1), BAD);
            (0..3).for_each(|_| window.record(at(1), GOOD));
            let other = {
                let window = window.clone();
                thread::spawn(move || [2, 3].map(|ms| window.record(at(ms), GOOD)))
            };
            let counts = window.counts(at(1));
            assert!(counts.failed * 4 <= counts.total, "one in four is bad: {counts:?}");
            other.join().unwrap();
        });
    }

    #[test]
    fn loom_a_bad_call_is_never_seen_without_the_call() {
        loom::model(|| {
            let origin = Tick::of(std::time::Instant::now());
            let window = Arc::new(TimeWindow::new(Duration::from_millis(3), 3, origin));
            window.record(origin, GOOD);
            let other = {
                let window = window.clone();
                thread::spawn(move || window.record(origin, BAD))
            };
            let counts = window.counts(origin);
            assert!([(1, 0), (2, 0), (2, 1)].contains(&(counts.total, counts.failed)), "{counts:?}");
            other.join().unwrap();
        });
    }

    #[test]
    fn loom_a_time_window_that_is_emptied_meanwhile_stays_whole() {
        loom::model(|| {
            let origin = Tick::of(std::time::Instant::now());
            let late = origin + Duration::from_millis(1);
            let window = Arc::new(TimeWindow::new(Duration::from_millis(3), 3, origin));
            window.record(origin, GOOD);
            let other = {
                let window = window.clone();
                thread::spawn(move || window.record(late, BAD))
            };
            window.clear();
            let counts = window.counts(late);
            assert!(counts.total <= 1, "{counts:?}");
            other.join().unwrap();
            assert!(window.counts(late).total <= 1);
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
            assert_eq!(window.until.load(Relaxed) & BUSY, 0);
        });
    }
}
