//! Additive increase, multiplicative decrease: Netflix's `AIMDLimit`.

use std::time::Duration;

use tower_mesh_core::Tick;

use super::LimitSample;

/// One more with each call that ends well while at least half of the limit is used; a tenth less when a call is dropped or takes too long.
///
/// A burst of calls that were all under way when the limit fell says one thing and not many: only those admitted after it make it fall again. (That is ours. The
/// source lowers the limit for each.)
#[derive(Debug, Clone)]
pub struct Aimd {
    limit: u32,
    min: u32,
    max: u32,
    timeout: Duration,
    fell: Option<Tick>,
}

impl Aimd {
    /// Begins with `limit`. A call that takes longer than `timeout` counts as dropped.
    pub fn new(limit: u32, min: u32, max: u32, timeout: Duration) -> Self {
        Self { limit: limit.max(min).min(max), min, max, timeout, fell: None }
    }

    /// Takes in a call; the limit after it.
    pub fn observe(&mut self, sample: LimitSample) -> u32 {
        if sample.dropped || sample.ended.since(sample.started) > self.timeout {
            if self.fell.is_none_or(|fell| sample.started >= fell) {
                self.fell = Some(sample.ended);
                self.limit = ((u64::from(self.limit) * 9 / 10) as u32).max(self.min).max(1);
            }
        } else if u64::from(sample.in_flight) * 2 >= u64::from(self.limit) {
            self.limit = self.limit.saturating_add(1).min(self.max);
        }
        self.limit
    }

    /// The limit now.
    pub fn limit(&self) -> u32 {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Tick {
        // A reading is made from an instant: some origin, and so much later.
        static ORIGIN: std::sync::OnceLock<Tick> = std::sync::OnceLock::new();
        let origin = *ORIGIN.get_or_init(|| Tick::of(tokio::time::Instant::now().into_std()));
        origin + Duration::from_millis(ms)
    }

    fn sample(started: u64, ended: u64, in_flight: u32, dropped: bool) -> LimitSample {
        LimitSample { started: at(started), ended: at(ended), in_flight, dropped }
    }

    #[test]
    fn a_burst_of_calls_admitted_before_the_fall_makes_it_fall_once() {
        let mut aimd = Aimd::new(100, 1, 200, Duration::from_secs(5));
        for ended in 10..60 {
            assert_eq!(aimd.observe(sample(0, ended, 100, true)), 90);
        }
        assert_eq!(aimd.observe(sample(11, 70, 90, true)), 81, "one admitted since");
    }

    #[test]
    fn too_slow_is_as_bad_as_dropped() {
        let mut aimd = Aimd::new(100, 1, 200, Duration::from_millis(50));
        assert_eq!(aimd.observe(sample(0, 50, 100, false)), 101);
        assert_eq!(aimd.observe(sample(0, 51, 100, false)), 90);
    }

    #[test]
    fn it_stays_between_its_bounds_and_never_reaches_nothing() {
        let mut aimd = Aimd::new(3, 1, 4, Duration::from_secs(5));
        for i in 0..20 {
            aimd.observe(sample(i, i, 3, true));
        }
        assert_eq!(aimd.limit(), 1);
        for i in 20..40 {
            aimd.observe(sample(i, i, 3, false));
        }
        assert_eq!(aimd.limit(), 4);
    }
}
