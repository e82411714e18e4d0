//! Counting the outcomes of the recent past, over the last so many calls or the last so much time.
//!
//! Both kinds truly slide and are shared by all threads without a lock. Integer counts in a ring, not a decaying average: in a
//! tight burst an average gives each sample almost no weight, so the burst stays unseen.

mod count;
mod time;

use crate::ratio::Ratio;
use crate::tick::Tick;

pub use self::count::CountWindow;
pub use self::time::TimeWindow;

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
#[repr(u8)] // What kind it is stands at the beginning, beside what calls touch.
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

    /// How many bytes at its beginning are all that [`record`](Self::record) and [`may_hold_bad`](Self::may_hold_bad) touch, for a good call in a window over time.
    pub const HOT: usize = size_of::<u64>() * 4;

    /// What it holds at `now`. Reading changes nothing.
    pub fn counts(&self, now: Tick) -> WindowCounts {
        match self {
            Self::Count(window) => window.counts(),
            Self::Time(window) => window.counts(now),
        }
    }

    /// Whether it may hold a failed or slow call at `now`. `false` is true of every call recorded
    /// before; one that another thread is just recording may show only with the next. It costs one load.
    #[inline]
    pub fn may_hold_bad(&self, now: Tick) -> bool {
        match self {
            Self::Count(window) => window.may_hold_bad(),
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

#[cfg(test)]
const GOOD: Sample = Sample { failed: false, slow: false };
#[cfg(test)]
const BAD: Sample = Sample { failed: true, slow: false };

/// Runs all of `others` at once in a model.
#[cfg(all(loom, test))]
fn together<T: Send + Sync + 'static>(shared: &loom::sync::Arc<T>, others: impl IntoIterator<Item = fn(&T)>) {
    let spawn = |run: fn(&T)| {
        let shared = shared.clone();
        loom::thread::spawn(move || run(&shared))
    };
    let threads: Vec<_> = others.into_iter().map(spawn).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
