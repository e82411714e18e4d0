//! The balancer's guard over one call: it counts the call out and learns its latency.

use std::time::{Duration, Instant};

use tower_mesh_core::classify::{AbandonedPolicy, Guard, Outcome, Verdict};
use tower_mesh_core::{CallContext, CallEnd, EndpointHandle, LatencyEpoch};

use crate::balance::clock;
use crate::config::DiscoveryConfig;

/// A server's wish to be left alone counts as latency up to this (Linkerd).
const MAX_HINT: Duration = Duration::from_secs(300);

/// Rides with a call to its end, the end of the response body included. Dropped before that, it reports an abandoned call.
#[derive(Debug)]
pub struct InFlight {
    handle: EndpointHandle,
    epoch: LatencyEpoch,
    started: Instant,
    /// When something last arrived; only a streaming response moves it.
    progressed: Instant,
    decay: Duration,
    penalty: Duration,
    abandoned: AbandonedPolicy,
    finished: bool,
}

impl InFlight {
    pub(crate) fn new(handle: EndpointHandle, started: Instant, config: &DiscoveryConfig) -> Self {
        handle.started();
        Self {
            epoch: handle.latency_epoch(),
            handle,
            started,
            progressed: started,
            decay: config.latency_decay(),
            penalty: config.failure_penalty(),
            abandoned: config.abandoned(),
            finished: false,
        }
    }

    /// Failure is not speed: a failed call counts as at least the penalty, or as long as the server asked us to stay away.
    fn observe(&self, now: Instant, outcome: Outcome, wait: Option<Duration>) {
        let latency = now.saturating_duration_since(self.started);
        let sample = match outcome {
            Outcome::Success | Outcome::Undecided => latency,
            Outcome::Failure(_) => latency
                .max(self.penalty)
                .max(wait.unwrap_or_default().min(MAX_HINT)),
            Outcome::Ignored | Outcome::Refused => return,
        };
        self.handle.observe_latency(self.epoch, now, sample, self.decay);
    }
}

impl Guard for InFlight {
    fn progress(&mut self) {
        self.progressed = clock();
    }

    fn finish(mut self, verdict: Verdict) {
        self.finished = true;
        let now = CallContext::attempt_ended(self.started, clock);
        self.observe(now, verdict.outcome, verdict.wait);
        self.handle.finished(CallEnd::Answered(verdict.outcome));
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let now = CallContext::attempt_ended(self.started, clock);
        let quiet = now.saturating_duration_since(self.progressed);
        let outcome = self
            .abandoned
            .outcome(CallContext::drop_reason_of(self.started), quiet);
        self.observe(now, outcome, None);
        self.handle.finished(CallEnd::Abandoned);
    }
}
