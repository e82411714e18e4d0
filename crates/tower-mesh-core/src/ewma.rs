//! Time-decayed averages: how fast is an endpoint, with older evidence weighing less.
//!
//! The peak-sensitive form follows Finagle's and Linkerd's load metric: a sample above the estimate replaces it at once, one below
//! pulls it down with weight `1 - exp(-Δt/τ)`, and reading projects the decay towards zero without writing it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How fast what was known loses weight: after `elapsed` it keeps `exp(-elapsed/τ)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decay {
    per_ns: f64,
}

impl Decay {
    /// Decay with the time constant `tau`, which is taken as at least one nanosecond.
    pub fn new(tau: Duration) -> Self {
        Self { per_ns: 1.0 / (tau.as_nanos() as f64).max(1.0) }
    }

    /// The weight kept after `elapsed_ns` nanoseconds.
    ///
    /// For the short gaps of a busy endpoint the beginning of the exponential's series stands in for it, without a division or a call; its relative error there is
    /// below 1e-10.
    #[inline]
    pub fn weight(self, elapsed_ns: u64) -> f64 {
        // By way of a signed number, which converts in one instruction; 292 years are enough.
        let x = elapsed_ns as i64 as f64 * self.per_ns;
        if x < 1e-3 {
            (1.0 - x) + (x * x) * (0.5 - x * (1.0 / 6.0))
        } else if x < 1.0 / 32.0 {
            let rest = 1.0 / 6.0 - x * (1.0 / 24.0 - x * (1.0 / 120.0));
            1.0 - x + x * x * (0.5 - x * rest)
        } else {
            (-x).exp()
        }
    }
}

/// An exponentially weighted moving average over time, owned by one place.
#[derive(Debug, Clone)]
pub struct Ewma {
    decay: Decay,
    value: Option<f64>,
    stamp_ns: u64,
}

impl Ewma {
    /// An average with no history and time constant `tau`, which is taken as at least one nanosecond.
    pub fn new(tau: Duration) -> Self {
        Self { decay: Decay::new(tau), value: None, stamp_ns: 0 }
    }

    /// Takes in `sample`, observed at `now_ns`. A sample not newer than the last one is ignored.
    pub fn observe(&mut self, now_ns: u64, sample: f64) {
        match self.value {
            None => self.value = Some(sample),
            Some(_) if now_ns <= self.stamp_ns => return,
            Some(old) => {
                let w = self.decay.weight(now_ns - self.stamp_ns);
                self.value = Some(sample * (1.0 - w) + old * w);
            }
        }
        self.stamp_ns = now_ns;
    }

    /// As [`Ewma::observe`], but a sample above the average replaces it.
    pub fn observe_peak(&mut self, now_ns: u64, sample: f64) {
        if self.value.is_some_and(|old| sample > old) && now_ns > self.stamp_ns {
            self.value = Some(sample);
            self.stamp_ns = now_ns;
        } else {
            self.observe(now_ns, sample);
        }
    }

    /// The average, or none without history.
    pub fn get(&self) -> Option<f64> {
        self.value
    }

    /// Forgets all samples.
    pub fn reset(&mut self) {
        self.value = None;
    }
}

/// The peak-sensitive latency estimate of one endpoint, shared by all threads.
///
/// Two relaxed words: concurrent completions may lose one another's sample, which an average shrugs off, and no
/// reader or writer ever waits.
#[derive(Debug, Default)]
pub struct PeakEwma {
    /// Bits of an `f64` of nanoseconds; all-zero bits mean no history.
    cost: AtomicU64,
    stamp_ns: AtomicU64,
}

impl PeakEwma {
    /// Takes in a completed attempt of `rtt_ns` at `now_ns`. An older time stamp than the last is ignored.
    #[inline]
    pub fn observe(&self, now_ns: u64, rtt_ns: f64, decay: Decay) {
        let cost = f64::from_bits(self.cost.load(Relaxed));
        let stamp = self.stamp_ns.load(Relaxed);
        // A zero sample would read as "no history".
        let rtt = rtt_ns.max(1.0);
        let next = if cost == 0.0 || (rtt > cost && now_ns >= stamp) {
            rtt
        } else if now_ns < stamp {
            return;
        } else {
            let w = decay.weight(now_ns - stamp);
            rtt * (1.0 - w) + cost * w
        };
        self.stamp_ns.store(now_ns, Relaxed);
        self.cost.store(next.to_bits(), Relaxed);
    }

    /// The estimate at `now_ns`, decayed towards zero since the last sample; 0 without history.
    #[inline]
    pub fn get(&self, now_ns: u64, decay: Decay) -> f64 {
        let cost = f64::from_bits(self.cost.load(Relaxed));
        if cost == 0.0 {
            return 0.0;
        }
        cost * decay.weight(now_ns.saturating_sub(self.stamp_ns.load(Relaxed)))
    }

    /// Forgets the history: the next call is a first call again.
    pub fn forget(&self) {
        self.cost.store(0, Relaxed);
    }
}

/// How loaded an endpoint looks: `cost · (pending + 1)`, or for one without history nothing while it is idle and more than
/// any measured load while a first call is out, so that a newcomer gets one call until it has answered.
#[inline]
pub fn load(cost_ns: f64, pending: u64) -> f64 {
    if cost_ns > 0.0 {
        cost_ns * (pending as i64 as f64 + 1.0)
    } else if pending == 0 {
        0.0
    } else {
        ((i64::MAX >> 16) as u64 + pending) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_agrees_with_the_exponential_where_it_is_used() {
        let decay = Decay::new(Duration::from_secs(10));
        for elapsed in [0_u64, 1, 1_000, 99_999, 100_001, 1_000_000, 9_765_000, 100_000_000, 312_499_999] {
            let exact = (-(elapsed as f64) / 1e10).exp();
            assert!((decay.weight(elapsed) - exact).abs() < 1e-10, "{elapsed}");
        }
        assert!(
            (decay.weight(312_499_000) - decay.weight(312_501_000)).abs() < 1e-6,
            "no step where they meet"
        );
    }

    #[test]
    fn reading_projects_but_does_not_write() {
        let (ewma, decay) = (PeakEwma::default(), Decay::new(Duration::from_nanos(10)));
        ewma.observe(0, 100.0, decay);
        let later = ewma.get(10, decay);
        assert!((later - 100.0 * (-1.0_f64).exp()).abs() < 1e-9);
        assert_eq!(ewma.get(0, decay), 100.0);
    }

    #[test]
    fn a_newcomer_gets_one_call_until_it_answers() {
        assert_eq!(load(0.0, 0), 0.0);
        assert!(load(0.0, 1) > load(60e9, 1000), "worse than a minute of latency behind a thousand calls");
    }
}
