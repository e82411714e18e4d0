use std::time::Duration;

use crate::policy::machine::{HealthState, Step};

/// How long to wait after one check before the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cadence {
    /// While it is up.
    pub interval: Duration,
    /// While it is down.
    pub unhealthy_interval: Duration,
    /// While it is down and passes.
    pub healthy_edge_interval: Duration,
    /// While it is up and fails.
    pub unhealthy_edge_interval: Duration,
    /// While it is up and no call has been sent to it yet.
    pub no_traffic_interval: Duration,
    /// While no check has told anything yet.
    pub unknown_interval: Duration,
}

impl Cadence {
    /// The wait after `step`; `traffic` is whether the endpoint has been called at all.
    pub fn after(&self, step: Step, traffic: bool) -> Duration {
        if !step.decided {
            return self.unknown_interval;
        }
        let down = step.to == HealthState::Unhealthy;
        match (down, step.pending) {
            (true, true) => self.healthy_edge_interval,
            (true, false) => self.unhealthy_interval,
            (false, true) => self.unhealthy_edge_interval,
            (false, false) if !traffic => self.no_traffic_interval,
            (false, false) => self.interval,
        }
    }

    /// The longest wait before a stream of news is opened again, unless `unhealthy_interval` is longer.
    pub const MAX_REOPEN: Duration = Duration::from_secs(120);

    /// The wait after a stream of news before another is opened: `unhealthy_interval`, doubled for each of the `in_vain` streams right before it that
    /// told nothing, up to [`MAX_REOPEN`](Self::MAX_REOPEN). As in gRFC A17, any news starts it anew.
    pub fn reopen(&self, in_vain: u32) -> Duration {
        let doubled = self.unhealthy_interval.saturating_mul(2_u32.saturating_pow(in_vain));
        doubled.min(Self::MAX_REOPEN.max(self.unhealthy_interval))
    }
}

/// `base` and a part of `at_most` on top, by a raw 64-bit `random` draw, in whole milliseconds: jitter only lengthens.
///
/// The draw is reduced as Envoy does it, by the remainder, so that the same draw gives the same wait.
pub fn lengthen(base: Duration, at_most: Duration, random: u64) -> Duration {
    let at_most = u64::try_from(at_most.as_millis()).unwrap_or(u64::MAX);
    match random.checked_rem(at_most) {
        Some(extra) => base.saturating_add(Duration::from_millis(extra)),
        None => base,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_lengthens_by_less_than_its_bound_and_reaches_all_of_it() {
        let (base, at_most) = (Duration::from_secs(5), Duration::from_millis(500));
        let waits: Vec<_> = (0..5000).map(|random| lengthen(base, at_most, random * 7919)).collect();
        assert!(waits.iter().all(|wait| (base..base + at_most).contains(wait)));
        assert_eq!(waits.iter().min(), Some(&base));
        assert_eq!(waits.iter().max(), Some(&(base + at_most - Duration::from_millis(1))));
        assert_eq!(lengthen(base, Duration::ZERO, 123), base);
    }

    #[test]
    fn an_endpoint_that_is_down_is_never_looked_at_as_rarely_as_an_idle_one() {
        let cadence = Cadence {
            interval: Duration::from_secs(1),
            unhealthy_interval: Duration::from_secs(2),
            healthy_edge_interval: Duration::from_secs(4),
            unhealthy_edge_interval: Duration::from_secs(3),
            no_traffic_interval: Duration::from_secs(60),
            unknown_interval: Duration::from_secs(7),
        };
        let step = |to, pending| Step { from: to, to, pending, decided: to != HealthState::Unknown };
        for (to, pending, traffic, seconds) in [
            (HealthState::Healthy, false, true, 1),
            (HealthState::Unknown, false, false, 7),
            (HealthState::Degraded, false, false, 60),
            (HealthState::Healthy, true, false, 3),
            (HealthState::Unhealthy, false, false, 2),
            (HealthState::Unhealthy, true, false, 4),
        ] {
            assert_eq!(cadence.after(step(to, pending), traffic).as_secs(), seconds);
        }
        let waits: Vec<_> = (0..9).map(|in_vain| cadence.reopen(in_vain).as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 120, 120, 120]);
        assert_eq!(cadence.reopen(u32::MAX), Cadence::MAX_REOPEN);
    }
}
