//! The balancer's guard over one call: it counts the call out and learns its latency.

use std::time::Duration;

use tower_mesh_core::classify::{AbandonedPolicy, Guard, Outcome, Progress, Verdict};
use tower_mesh_core::ewma::Decay;
use tower_mesh_core::{CallContext, CallEnd, EndpointHandle, LatencyEpoch, Tick};

use crate::balance::clock;
use crate::config::DiscoveryConfig;

/// A server's wish to be left alone counts as latency up to this (Linkerd).
const MAX_HINT: Duration = Duration::from_secs(300);

/// Rides with a call to its end, the end of the response body included. Dropped before that, it reports an abandoned call.
#[derive(Debug)]
pub struct InFlight {
    handle: EndpointHandle,
    epoch: LatencyEpoch,
    started: Tick,
    /// Only a streaming response tells.
    progress: Progress,
    rules: Rules,
    finished: bool,
}

/// What of the configuration the end of a call needs, small enough to ride with each call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) decay: Decay,
    penalty_ms: u32,
    stalled_after_ms: u32,
}

impl Rules {
    pub(crate) fn new(config: &DiscoveryConfig) -> Self {
        let ms = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        Self {
            decay: Decay::new(config.latency_decay()),
            penalty_ms: ms(config.failure_penalty()),
            stalled_after_ms: ms(config.stalled_after()),
        }
    }

    fn penalty(self) -> Duration {
        Duration::from_millis(self.penalty_ms.into())
    }

    fn abandoned(self) -> AbandonedPolicy {
        AbandonedPolicy::new(Duration::from_millis(self.stalled_after_ms.into()))
    }
}

impl InFlight {
    pub(crate) fn new(handle: EndpointHandle, started: Tick, rules: Rules) -> Self {
        handle.started();
        Self {
            epoch: handle.latency_epoch(),
            handle,
            started,
            progress: Progress::default(),
            rules,
            finished: false,
        }
    }

    /// Failure is not speed: a failed call counts as at least the penalty, or as long as the server asked us to stay away.
    fn observe(&self, now: Tick, outcome: Outcome, wait: Option<Duration>) {
        let (latency, decay) = (now.nanos_since(self.started), self.rules.decay);
        match outcome {
            Outcome::Success | Outcome::Undecided => {
                self.handle.observe_latency(self.epoch, now, latency, decay);
            }
            Outcome::Failure(_) => {
                let hint = wait.unwrap_or_default().min(MAX_HINT);
                let penalty = hint.max(self.rules.penalty()).as_nanos() as u64;
                self.handle.observe_failure(self.epoch, now, latency.max(penalty), decay);
            }
            Outcome::Ignored | Outcome::Refused => {}
        }
    }
}

impl Guard for InFlight {
    fn progress(&mut self) {
        self.progress.made(self.started, clock());
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
        let quiet = self.progress.quiet(self.started, now);
        let outcome = self.rules.abandoned().outcome(CallContext::drop_reason_of(self.started), quiet);
        self.observe(now, outcome, None);
        self.handle.finished(CallEnd::Abandoned);
    }
}
