//! The guard over one call.

use tower_mesh_core::classify::{AbandonedPolicy, Guard, Outcome, Progress, Verdict};
use tower_mesh_core::{CallContext, Sharded, Tick};

use crate::service::clock;
use crate::shared::Shared;

/// Rides with a call to its end, the end of the response body included, and gives its place back. Dropped before that, it reports an abandoned call: see
/// [`AbandonedPolicy`].
#[must_use]
pub struct AdmissionGuard {
    /// None once it has been told, or if nothing is counted.
    inner: Option<Inner>,
}

struct Inner {
    shared: Sharded<Shared>,
    number: u32,
    started: Tick,
    /// Only a streaming response tells.
    progress: Progress,
}

impl AdmissionGuard {
    /// Of a call that nobody counts.
    #[inline]
    pub(crate) const fn idle() -> Self {
        Self { inner: None }
    }

    #[inline]
    pub(crate) fn new(shared: Sharded<Shared>, number: u32, started: Tick) -> Self {
        Self { inner: Some(Inner { shared, number, started, progress: Progress::default() }) }
    }
}

impl Inner {
    #[inline]
    fn ended(&self, outcome: Outcome) {
        let now = || CallContext::attempt_ended(self.started, clock);
        self.shared.ended(self.number, outcome, self.started, now);
    }
}

impl Guard for AdmissionGuard {
    fn progress(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.progress.made(inner.started, clock());
        }
    }

    #[inline]
    fn finish(mut self, verdict: Verdict) {
        if let Some(inner) = self.inner.take() {
            inner.ended(verdict.outcome);
        }
    }
}

impl Drop for AdmissionGuard {
    #[inline]
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            let now = CallContext::attempt_ended(inner.started, clock);
            let quiet = inner.progress.quiet(inner.started, now);
            let reason = CallContext::drop_reason_of(inner.started);
            inner.ended(AbandonedPolicy::default().outcome(reason, quiet));
        }
    }
}

impl std::fmt::Debug for AdmissionGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdmissionGuard").field("counted", &self.inner.is_some()).finish_non_exhaustive()
    }
}
