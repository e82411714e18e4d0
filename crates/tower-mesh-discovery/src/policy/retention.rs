//! When an endpoint that the source no longer names may go.
//!
//! After Finagle's stabilizing address set: removals wait for a grace, and only while the source is well; when it gets well again the grace
//! begins anew, and whoever is named again stays. And after Envoy's matrix: one that still passes its checks may stay for as long as it does.

use std::collections::BTreeMap;
use std::time::Duration;

use tower_mesh_core::Tick;

/// Which endpoints are waiting to go, by a key of the caller's.
#[derive(Debug)]
pub struct Retention<K> {
    rules: Rules,
    /// Since when the source is well; none while it is not.
    well_since: Option<Tick>,
    leaving: BTreeMap<K, Leaving>,
}

/// What makes an endpoint wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// How long one that is no longer named stays.
    pub grace: Duration,
    /// The same, if it goes because the answer names nobody.
    pub empty_grace: Duration,
    /// Whether it stays after that while it is well.
    pub while_well: bool,
}

#[derive(Debug, Clone, Copy)]
struct Leaving {
    since: Tick,
    grace: Duration,
}

/// How often those who stay only while they are well are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl<K: Ord + Clone> Retention<K> {
    /// Nobody is leaving, and the source has said nothing.
    pub fn new(rules: Rules) -> Self {
        Self { rules, well_since: None, leaving: BTreeMap::new() }
    }

    /// The source is well, or is not, from `now` on.
    pub fn source(&mut self, well: bool, now: Tick) {
        match (well, self.well_since) {
            (true, None) => {
                self.well_since = Some(now);
                for leaving in self.leaving.values_mut() {
                    leaving.since = now;
                }
            }
            (false, _) => self.well_since = None,
            (true, Some(_)) => {}
        }
    }

    /// These are all who are no longer named; `of_all`: nobody is named. Whoever was leaving and is not among them stays.
    pub fn absent(&mut self, keys: impl IntoIterator<Item = K>, of_all: bool, now: Tick) {
        let grace = if of_all { self.rules.grace.max(self.rules.empty_grace) } else { self.rules.grace };
        let before = std::mem::take(&mut self.leaving);
        for key in keys {
            let leaving = before.get(&key).copied().unwrap_or(Leaving { since: now, grace });
            self.leaving.insert(key, leaving);
        }
    }

    /// How many are waiting to go.
    pub fn waiting(&self) -> usize {
        self.leaving.len()
    }

    /// Those who may go now, and are no longer waited for. `is_well` says whether one still passes its checks.
    pub fn due(&mut self, now: Tick, is_well: impl Fn(&K) -> bool) -> Vec<K> {
        self.due_up_to(usize::MAX, now, is_well, |_| 0)
    }

    /// The same, but no more than `most`; who of them goes is left to chance: `draw` gives a number below its argument. In order of the keys.
    pub fn due_up_to(
        &mut self,
        most: usize,
        now: Tick,
        is_well: impl Fn(&K) -> bool,
        mut draw: impl FnMut(usize) -> usize,
    ) -> Vec<K> {
        if self.well_since.is_none() {
            return Vec::new();
        }
        let goes = |key: &K, leaving: &Leaving| {
            now.since(leaving.since) >= leaving.grace && !(self.rules.while_well && is_well(key))
        };
        let mut due: Vec<K> = self
            .leaving
            .iter()
            .filter(|(key, leaving)| goes(key, leaving))
            .map(|(key, _)| key.clone())
            .collect();
        if due.len() > most {
            for i in 0..most {
                let other = i + draw(due.len() - i);
                due.swap(i, other);
            }
            due.truncate(most);
            due.sort_unstable();
        }
        for key in &due {
            self.leaving.remove(key);
        }
        due
    }

    /// How long from `now` until somebody may go. None if nobody will without news of the source.
    pub fn wait(&self, now: Tick) -> Option<Duration> {
        self.well_since?;
        let rest = |leaving: &Leaving| leaving.grace.saturating_sub(now.since(leaving.since));
        let first = self.leaving.values().map(rest).min()?;
        Some(if self.rules.while_well { first.max(LOOK_EVERY) } else { first })
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "time is an argument; tests need some instant")]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn begin(rules: Rules) -> (Retention<u32>, Tick) {
        let now = Tick::of(std::time::Instant::now());
        let mut retention = Retention::new(rules);
        retention.source(true, now);
        (retention, now)
    }

    #[test]
    fn each_has_its_grace_and_who_is_named_again_stays() {
        let (mut retention, now) = begin(Rules { grace: ms(100), ..Rules::default() });
        retention.absent([1], false, now);
        retention.absent([1, 2], false, now + ms(60));
        assert_eq!(retention.wait(now + ms(60)), Some(ms(40)));
        assert_eq!(retention.due(now + ms(100), |_| true), [1]);
        retention.absent([], false, now + ms(110));
        assert_eq!((retention.due(now + ms(500), |_| true), retention.wait(now)), (vec![], None));
    }

    #[test]
    fn a_source_that_is_not_well_takes_nobody_and_the_grace_begins_anew() {
        let (mut retention, now) = begin(Rules { grace: ms(100), ..Rules::default() });
        retention.absent([1], false, now);
        retention.source(false, now + ms(50));
        assert_eq!((retention.due(now + ms(900), |_| true), retention.wait(now)), (vec![], None));
        retention.source(true, now + ms(1000));
        retention.source(true, now + ms(1050));
        assert_eq!(retention.due(now + ms(1099), |_| true), [0; 0]);
        assert_eq!(retention.due(now + ms(1100), |_| true), [1]);
    }

    #[test]
    fn of_more_than_may_go_chance_chooses_and_the_others_wait() {
        let (mut retention, now) = begin(Rules::default());
        retention.absent(0..10, false, now);
        let mut last = |below: usize| below - 1;
        assert_eq!(retention.due_up_to(2, now, |_| true, &mut last), [0, 9]);
        assert_eq!((retention.waiting(), retention.due_up_to(0, now, |_| true, &mut last)), (8, vec![]));
        assert_eq!(retention.due(now, |_| true), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn when_all_go_the_longer_grace_counts() {
        let (mut retention, now) = begin(Rules { empty_grace: ms(100), ..Rules::default() });
        retention.absent([1], false, now);
        assert_eq!(retention.due(now, |_| true), [1], "one of many goes at once");
        retention.absent([2, 3], true, now);
        assert_eq!(retention.due(now + ms(99), |_| true), [0; 0]);
        assert_eq!(retention.due(now + ms(100), |_| true), [2, 3]);
    }
}
