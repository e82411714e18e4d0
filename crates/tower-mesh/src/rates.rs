//! How many attempts a service made lately and how many of them failed, from the counts that its endpoints' records keep anyway.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde::Serialize;
use tower_mesh_core::{CallCounts, Tick};

/// The attempts of a service over the latest stretch of time, as far as the mesh has run that long. Looked at once a second, so up to a second old.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[non_exhaustive]
pub struct Rates {
    /// Over 10 seconds.
    pub last_10s: Rate,
    /// Over a minute.
    pub last_1m: Rate,
    /// Over 5 minutes.
    pub last_5m: Rate,
}

/// Attempts over one stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[non_exhaustive]
pub struct Rate {
    /// Those that ended in it, well or badly.
    pub attempts: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Those that were dropped before their end.
    pub abandoned: u64,
    /// `failed` of `attempts`, from 0 to 1; none without any.
    pub error_rate: Option<f64>,
}

/// What was counted up to some moment, over all endpoints there ever were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) abandoned: u64,
}

impl Totals {
    fn add(&mut self, now: CallCounts, before: CallCounts) {
        self.succeeded += now.succeeded.saturating_sub(before.succeeded);
        self.failed += now.failed.saturating_sub(before.failed);
        self.abandoned += now.abandoned.saturating_sub(before.abandoned);
    }
}

/// The totals of the last five minutes. Bounded: one entry a second, and one for each endpoint there is.
#[derive(Debug, Default)]
pub(crate) struct History {
    samples: VecDeque<(Tick, Totals)>,
    total: Totals,
    /// What each endpoint had counted when it was last looked at. What one counts between that and its going is lost.
    seen: HashMap<u32, CallCounts>,
}

const LONGEST: Duration = Duration::from_secs(300);
/// A few more than seconds, for samples that come early.
const MAX_SAMPLES: usize = 310;

impl History {
    /// Takes in what the endpoints have counted at `now`, by their keys.
    pub(crate) fn sample(&mut self, now: Tick, endpoints: impl Iterator<Item = (u32, CallCounts)>) {
        let mut seen = HashMap::with_capacity(self.seen.len());
        for (key, counts) in endpoints {
            // One that was not seen before was born since, with nothing counted.
            self.total.add(counts, self.seen.get(&key).copied().unwrap_or_default());
            seen.insert(key, counts);
        }
        self.seen = seen;
        let too_old = |at: Tick| now.since(at) > LONGEST;
        // The newest that is too old stays: it is where the longest stretch begins.
        while self.samples.get(1).is_some_and(|&(at, _)| too_old(at)) || self.samples.len() >= MAX_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((now, self.total));
    }

    pub(crate) fn total(&self) -> Totals {
        self.total
    }

    pub(crate) fn rates(&self) -> Rates {
        let over = |seconds| self.over(Duration::from_secs(seconds));
        Rates { last_10s: over(10), last_1m: over(60), last_5m: over(300) }
    }

    fn over(&self, stretch: Duration) -> Rate {
        let Some(&(now, _)) = self.samples.back() else { return Rate::default() };
        // The latest that is at least so old, or else the oldest there is.
        let begin = self.samples.partition_point(|&(at, _)| now.since(at) >= stretch).saturating_sub(1);
        let before = self.samples[begin].1;
        let failed = self.total.failed - before.failed;
        let attempts = failed + self.total.succeeded - before.succeeded;
        let abandoned = self.total.abandoned - before.abandoned;
        let error_rate = (attempts > 0).then(|| failed as f64 / attempts as f64);
        Rate { attempts, failed, abandoned, error_rate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Tick {
        Tick::of(tokio::time::Instant::now().into_std())
    }

    fn counts(succeeded: u64, failed: u64) -> CallCounts {
        let mut counts = CallCounts::default();
        (counts.succeeded, counts.failed) = (succeeded, failed);
        counts
    }

    #[test]
    fn each_stretch_holds_what_ended_in_it() {
        let (mut history, start) = (History::default(), start());
        // One attempt a second for 400 seconds; those of the last 20 seconds fail.
        for second in 0..=400_u64 {
            let failed = second.saturating_sub(380);
            let now = start + Duration::from_secs(second);
            history.sample(now, [(1, counts(second - failed, failed))].into_iter());
        }
        let rates = history.rates();
        let told = [rates.last_10s, rates.last_1m, rates.last_5m].map(|rate| (rate.attempts, rate.failed));
        assert_eq!(told, [(10, 10), (60, 20), (300, 20)]);
        assert_eq!(rates.last_1m.error_rate, Some(20.0 / 60.0));
        assert!(history.samples.len() <= MAX_SAMPLES);
    }

    #[test]
    fn an_endpoint_that_goes_takes_nothing_away_and_one_that_comes_brings_its_own() {
        let (mut history, start) = (History::default(), start());
        let at = |second| start + Duration::from_secs(second);
        history.sample(at(0), std::iter::empty());
        history.sample(at(1), [(1, counts(50, 0)), (2, counts(5, 5))].into_iter());
        history.sample(at(2), [(2, counts(6, 5)), (3, counts(1, 0))].into_iter());
        assert_eq!(history.total(), Totals { succeeded: 57, failed: 5, abandoned: 0 });
        assert_eq!(history.seen.len(), 2);
        history.sample(at(2), std::iter::empty());
        assert_eq!(history.rates().last_10s.attempts, 62);
    }

    #[test]
    fn without_any_there_is_no_rate_and_samples_too_often_are_bounded() {
        let (mut history, start) = (History::default(), start());
        assert_eq!(history.rates(), Rates::default());
        for _ in 0..10_000 {
            history.sample(start, std::iter::empty());
        }
        assert_eq!((history.rates().last_5m.error_rate, history.samples.len()), (None, MAX_SAMPLES));
    }
}
