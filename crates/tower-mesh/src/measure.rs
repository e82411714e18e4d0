//! Measuring whole calls, which has a cost and so is asked for: how long they take, and how they end by operation.

use std::array;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Serialize;
use tower_mesh_core::{Operation, Tick};

use crate::error::ErrorKind;

/// How long calls take, retries and all the waiting included, up to the head of their response.
///
/// Each is the upper end of a bucket an eighth of its value wide. Over the last one to two minutes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LatencyStatus {
    /// Calls measured.
    pub calls: u64,
    /// Half of them took no longer, in milliseconds.
    pub p50_ms: f64,
    /// So of nine tenths.
    pub p90_ms: f64,
    /// So of 99 in a hundred.
    pub p99_ms: f64,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Well,
    Badly(ErrorKind),
    /// Its future was dropped.
    Abandoned,
}

impl Ended {
    const COUNT: usize = ErrorKind::ALL.len() + 2;

    fn place(self) -> usize {
        match self {
            Self::Well => 0,
            Self::Abandoned => 1,
            Self::Badly(kind) => kind as usize + 2,
        }
    }

    #[cfg_attr(
        not(any(test, feature = "metrics")),
        expect(dead_code, reason = "only metrics tell it by place")
    )]
    fn name_of(place: usize) -> &'static str {
        match place {
            0 => "ok",
            1 => "caller-gone",
            _ => ErrorKind::ALL[place - 2].as_str(),
        }
    }
}

/// The calls of one service.
#[derive(Default)]
pub(crate) struct Calls {
    /// Replaced when an operation is new; read by every call.
    by_operation: ArcSwap<HashMap<Option<Operation>, Arc<Outcomes>>>,
    adding: Mutex<()>,
    latency: Histogram,
    /// How the histogram was one and two turns ago.
    turns: Mutex<[Option<Turn>; 2]>,
    #[cfg(feature = "metrics")]
    duration: std::sync::OnceLock<metrics::Histogram>,
}

/// How a histogram was.
type Turn = (Tick, Box<Buckets>);

#[derive(Debug)]
struct Outcomes([AtomicU64; Ended::COUNT]);

/// Operations beyond this number are counted as `other`: a label must not grow with the names that callers make up.
pub(crate) const MAX_OPERATIONS: usize = 100;

const TURN: Duration = Duration::from_secs(60);

impl Calls {
    /// Takes in a call that took so long; none if it was refused before it began.
    pub(crate) fn ended(&self, operation: Option<Operation>, ended: Ended, took: Option<Duration>) {
        let known = self.by_operation.load();
        let count = |outcomes: &Outcomes| outcomes.0[ended.place()].fetch_add(1, Ordering::Relaxed);
        // Beyond the bound all are one, which is found like any other: no call waits for a lock then.
        let full = || known.get(&Some(Operation::OTHER)).filter(|_| known.len() > MAX_OPERATIONS);
        match known.get(&operation).or_else(full) {
            Some(outcomes) => count(outcomes),
            None => count(&self.add(operation)),
        };
        if let Some(took) = took {
            self.latency.record(took);
            #[cfg(feature = "metrics")]
            if let Some(duration) = self.duration.get() {
                // The recorder is the user's: what it panics with is not the call's. The observer tells of it, who asks it more.
                let record = || duration.record(took.as_secs_f64());
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(record));
            }
        }
    }

    #[cold]
    fn add(&self, operation: Option<Operation>) -> Arc<Outcomes> {
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.by_operation.load();
        // The one for all others is one more.
        let operation = if known.len() < MAX_OPERATIONS { operation } else { Some(Operation::OTHER) };
        if let Some(outcomes) = known.get(&operation) {
            return outcomes.clone();
        }
        let added = Arc::new(Outcomes(array::from_fn(|_| AtomicU64::new(0))));
        let mut all = HashMap::clone(&known);
        all.insert(operation, added.clone());
        self.by_operation.store(Arc::new(all));
        added
    }

    /// What was counted, by operation and outcome.
    #[cfg(any(test, feature = "metrics"))]
    pub(crate) fn counts(&self) -> Vec<(Option<Operation>, &'static str, u64)> {
        let known = self.by_operation.load();
        let each = known.iter().flat_map(|(&operation, outcomes)| {
            let counts = outcomes.0.iter().map(|count| count.load(Ordering::Relaxed)).enumerate();
            counts.map(move |(place, count)| (operation, Ended::name_of(place), count))
        });
        each.filter(|&(_, _, count)| count > 0).collect()
    }

    /// Where durations are told to; the first counts.
    #[cfg(feature = "metrics")]
    pub(crate) fn tell_durations(&self, to: impl FnOnce() -> metrics::Histogram) {
        self.duration.get_or_init(to);
    }

    /// Begins a new turn if the last one is long enough ago.
    pub(crate) fn turn(&self, now: Tick) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if turns[0].as_ref().is_none_or(|(at, _)| now.since(*at) >= TURN) {
            turns[1] = turns[0].take();
            turns[0] = Some((now, self.latency.read()));
        }
    }

    pub(crate) fn latency(&self) -> Option<LatencyStatus> {
        let mut buckets = self.latency.read();
        let turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let [_, Some((_, before))] = &*turns {
            for (now, before) in buckets.iter_mut().zip(before.iter()) {
                *now = now.wrapping_sub(*before);
            }
        }
        drop(turns);
        let calls: u64 = buckets.iter().sum();
        let quantile = |share: f64| upper_end(place_of(&buckets, calls, share)).as_secs_f64() * 1000.0;
        (calls > 0).then(|| LatencyStatus {
            calls,
            p50_ms: quantile(0.5),
            p90_ms: quantile(0.9),
            p99_ms: quantile(0.99),
        })
    }
}

/// Eight buckets to each doubling, from a microsecond on; the last holds all that is longer than an hour.
const BUCKETS: usize = 8 * 33;

type Buckets = [u64; BUCKETS];

/// Counts durations.
struct Histogram(Box<[AtomicU64; BUCKETS]>);

impl Default for Histogram {
    fn default() -> Self {
        Self(Box::new([const { AtomicU64::new(0) }; BUCKETS]))
    }
}

impl Histogram {
    fn record(&self, took: Duration) {
        self.0[bucket(took)].fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> Box<Buckets> {
        Box::new(self.0.each_ref().map(|count| count.load(Ordering::Relaxed)))
    }
}

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let doubling = micros.ilog2();
    // The three bits below the highest.
    let eighth = if doubling >= 3 { (micros >> (doubling - 3)) & 7 } else { (micros << (3 - doubling)) & 7 };
    (doubling as usize * 8 + eighth as usize).min(BUCKETS - 1)
}

fn upper_end(bucket: usize) -> Duration {
    let (doubling, eighth) = (bucket / 8, bucket % 8);
    Duration::from_nanos(((1000_u64 << doubling) / 8).saturating_mul(eighth as u64 + 9))
}

/// The bucket in which the share `share` of all is reached.
fn place_of(buckets: &Buckets, all: u64, share: f64) -> usize {
    let wanted = (all as f64 * share).ceil().max(1.0) as u64;
    let mut seen = 0;
    let reached = buckets.iter().position(|count| {
        seen += count;
        seen >= wanted
    });
    reached.unwrap_or(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_is_at_most_an_eighth_less_than_its_end() {
        for micros in (1..20_000).chain([1_000_000, 59_999_999, 3_600_000_000]) {
            let took = Duration::from_micros(micros);
            let end = upper_end(bucket(took));
            assert!(took <= end && end.as_secs_f64() <= took.as_secs_f64() * 1.126, "{took:?} in {end:?}");
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
        assert_eq!(bucket(Duration::ZERO), 0);
    }

    #[cfg(feature = "metrics")]
    #[test]
    fn a_recorder_that_panics_takes_no_call_with_it() {
        struct Panics;
        impl metrics::HistogramFn for Panics {
            fn record(&self, _: f64) {
                panic!("a recorder's bug")
            }
        }
        let calls = Calls::default();
        calls.tell_durations(|| metrics::Histogram::from_arc(Arc::new(Panics)));
        calls.ended(None, Ended::Well, Some(Duration::from_millis(1)));
        assert_eq!(calls.latency().unwrap().calls, 1);
    }

    #[test]
    fn quantiles_are_those_of_the_last_one_to_two_minutes() {
        let calls = Calls::default();
        let start = Tick::of(tokio::time::Instant::now().into_std());
        assert_eq!(calls.latency(), None);
        calls.turn(start);
        for ms in 1..=100 {
            calls.ended(None, Ended::Well, Some(Duration::from_millis(ms)));
        }
        let near =
            |found: f64, real: f64| assert!((real..real * 1.13).contains(&found), "{found} for {real}");
        let latency = calls.latency().unwrap();
        assert_eq!(latency.calls, 100);
        near(latency.p50_ms, 50.0);
        near(latency.p90_ms, 90.0);
        near(latency.p99_ms, 99.0);
        calls.turn(start + TURN);
        assert_eq!(calls.latency().unwrap().calls, 100, "a turn ago is still told");
        calls.ended(None, Ended::Well, Some(Duration::from_secs(1)));
        calls.turn(start + TURN * 2);
        near(calls.latency().unwrap().p50_ms, 1000.0);
    }

    #[test]
    fn names_that_callers_make_up_are_one_after_a_while() {
        let calls = Calls::default();
        for n in 0..1000 {
            calls.ended(Some(Operation::named(&format!("measured {n}"))), Ended::Well, None);
        }
        calls.ended(Some(Operation::named("measured 3")), Ended::Badly(ErrorKind::NotReady), None);
        let counts = calls.counts();
        assert_eq!(counts.len(), MAX_OPERATIONS + 2, "and the one for all others, and another outcome");
        let count = |operation: &str, outcome: &str| {
            let is = |(of, how, _): &&(Option<Operation>, &str, u64)| {
                *how == outcome && of.is_some_and(|of| of.as_str() == operation)
            };
            counts.iter().find(is).map(|&(_, _, count)| count)
        };
        assert_eq!(count("other", "ok"), Some(900));
        assert_eq!(count("measured 3", "not-ready"), Some(1));
        assert_eq!(calls.latency(), None);
    }

    #[test]
    fn every_end_has_a_place_and_a_name_of_its_own() {
        let ends = ErrorKind::ALL.map(Ended::Badly).into_iter().chain([Ended::Well, Ended::Abandoned]);
        let mut names: Vec<_> = ends.map(|ended| Ended::name_of(ended.place())).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Ended::COUNT);
    }
}
