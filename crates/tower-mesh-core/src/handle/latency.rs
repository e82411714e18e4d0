//! How fast it is, and so how loaded it looks.

use std::time::Duration;

use super::{EPOCH, EndpointHandle, PENALIZED};
use crate::availability::Reason;
use crate::ewma::{self, Decay};
use crate::sync::atomic::Ordering;
use crate::tick::Tick;

impl EndpointHandle {
    /// The latency epoch, to be given back with the sample of a call that starts now.
    #[inline]
    pub fn latency_epoch(&self) -> LatencyEpoch {
        LatencyEpoch((self.0.hot.word.load(Ordering::Relaxed) / EPOCH) as u16)
    }

    /// Takes in the latency, in nanoseconds, of a call that started in `epoch`. A sample from before the last
    /// [`forget_latency`](Self::forget_latency) is late news and ignored.
    #[inline]
    pub fn observe_latency(&self, epoch: LatencyEpoch, now: Tick, latency_ns: u64, decay: Decay) {
        if epoch == self.latency_epoch() {
            self.0.hot.latency.observe(now.as_nanos(), latency_ns as f64, decay);
        }
    }

    /// As [`observe_latency`](Self::observe_latency), for what a failed call counts as: it goes with the next passing probe.
    pub fn observe_failure(&self, epoch: LatencyEpoch, now: Tick, latency_ns: u64, decay: Decay) {
        self.observe_latency(epoch, now, latency_ns, decay);
        self.0.hot.word.fetch_or(PENALIZED, Ordering::Relaxed);
    }

    /// Forgets the latency learned so far: the next call is a first call again, whatever calls from before are still in flight.
    pub fn forget_latency(&self) {
        self.0.hot.word.fetch_add(EPOCH, Ordering::AcqRel);
        self.0.hot.word.fetch_and(!PENALIZED, Ordering::Relaxed);
        let in_flight = u32::try_from(self.counts().in_flight()).unwrap_or(u32::MAX);
        self.0.from_before.store(in_flight, Ordering::Relaxed);
        self.0.hot.latency.forget();
    }

    /// The latency estimate at `now`, decayed with `decay` since the last sample; none without history.
    pub fn latency(&self, now: Tick, decay: Decay) -> Option<Duration> {
        let cost = self.0.hot.latency.get(now.as_nanos(), decay);
        (cost > 0.0).then(|| Duration::from_nanos(cost as u64))
    }

    /// How loaded it looks at `now`: latency estimate times calls in flight, over its weight. Lower is better; no unit.
    #[inline]
    pub fn load(&self, now: Tick, decay: Decay) -> f64 {
        let hot = &self.0.hot;
        if self.availability().contains(Reason::CircuitHalfOpen) {
            // It wants its trial calls, and admits no more than these: whatever else it is busy with must not keep them away.
            return 0.0;
        }
        let cost = hot.latency.get(now.as_nanos(), decay);
        let mut pending = self.counts().in_flight();
        if cost == 0.0 {
            // Calls from before tell nothing, perhaps for hours: a newcomer is one that has calls of its own out.
            pending = pending.saturating_sub(self.0.from_before.load(Ordering::Relaxed).into());
        }
        let load = ewma::load(cost, pending);
        match hot.weight.load(Ordering::Relaxed) {
            1 => load,
            weight => load / f64::from(weight),
        }
    }
}

/// Which stretch of an endpoint's history a latency sample belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatencyEpoch(u16);
