//! How many endpoints may go at once.
//!
//! After Eureka's eviction: when many are gone at once it is more likely that the source is wrong than that they are, so only a share of the set goes in each run.

use std::time::Duration;

use tower_mesh_core::Tick;

/// A share of the set, and what is left of it in this run.
#[derive(Debug)]
pub struct Limit {
    /// In percent; 100 and more is no limit.
    percent: u32,
    interval: Duration,
    run: Option<Run>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    ends: Tick,
    left: usize,
}

impl Limit {
    /// At most `percent` of the set, rounded up, in each `interval`, which begins with the first that goes.
    pub fn new(percent: u32, interval: Duration) -> Self {
        Self { percent, interval, run: None }
    }

    /// How many of `size` may go now.
    pub fn allowance(&self, size: usize, now: Tick) -> usize {
        match self.run {
            _ if self.percent >= 100 => size,
            Some(run) if now < run.ends => run.left,
            // What must stay is rounded down, so that one of few can go.
            _ => size - (size as u128 * u128::from(100 - self.percent) / 100) as usize,
        }
    }

    /// So many of `size` went.
    pub fn gone(&mut self, went: usize, size: usize, now: Tick) {
        if self.percent >= 100 || went == 0 {
            return;
        }
        let left = self.allowance(size, now).saturating_sub(went);
        let ends = self.run.map(|run| run.ends).filter(|&ends| now < ends).unwrap_or(now + self.interval);
        self.run = Some(Run { ends, left });
    }

    /// How long until more may go, if none may now.
    pub fn wait(&self, now: Tick) -> Option<Duration> {
        self.run.filter(|run| run.left == 0 && now < run.ends).map(|run| run.ends.since(now))
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "time is an argument; tests need some instant")]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_a_share_of_the_set_with_which_it_began() {
        let now = Tick::of(std::time::Instant::now());
        let s = Duration::from_secs;
        let mut limit = Limit::new(15, s(60));
        assert_eq!(limit.allowance(100, now), 15);
        limit.gone(10, 100, now);
        assert_eq!((limit.allowance(90, now + s(30)), limit.wait(now + s(30))), (5, None));
        limit.gone(5, 90, now + s(30));
        assert_eq!((limit.allowance(85, now + s(59)), limit.wait(now + s(59))), (0, Some(s(1))));
        assert_eq!(
            (limit.allowance(85, now + s(60)), limit.wait(now + s(60))),
            (13, None),
            "85 - floor(72.25)"
        );
        let mut none = Limit::new(100, s(60));
        none.gone(50, 50, now);
        assert_eq!((none.allowance(7, now), none.wait(now)), (7, None));
    }
}
