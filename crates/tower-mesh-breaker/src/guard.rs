//! The breaker's guard over one call.

use tower_mesh_core::classify::{Guard, Progress, Verdict};
use tower_mesh_core::{CallContext, Tick};

use crate::circuit::Circuit;
use crate::policy::machine::{Admission, Counted};
use crate::service::clock;

/// Rides with a call to its end, the end of the response body included, and tells the circuit. Dropped before that, it reports an abandoned call.
#[derive(Debug)]
pub struct CircuitGuard {
    circuit: Circuit,
    /// None once it has been told.
    admission: Option<Admission>,
    started: Tick,
    /// Only a streaming response tells.
    progress: Progress,
}

impl CircuitGuard {
    pub(crate) fn new(circuit: Circuit, admission: Admission, started: Tick) -> Self {
        Self { circuit, admission: Some(admission), started, progress: Progress::default() }
    }
}

impl Guard for CircuitGuard {
    fn progress(&mut self) {
        self.progress.made(self.started, clock());
    }

    fn finish(mut self, verdict: Verdict) {
        if let Some(admission) = self.admission.take() {
            let now = CallContext::attempt_ended(self.started, clock);
            self.circuit.release(admission, verdict, now.nanos_since(self.started), now);
        }
    }
}

impl Drop for CircuitGuard {
    fn drop(&mut self) {
        let Some(admission) = self.admission.take() else {
            return;
        };
        if admission.counted() == Counted::Not && !self.circuit.is_in_a_set() {
            return;
        }
        let now = CallContext::attempt_ended(self.started, clock);
        let quiet = self.progress.quiet(self.started, now);
        let reason = CallContext::drop_reason_of(self.started);
        let outcome = self.circuit.config().abandoned().outcome(reason, quiet);
        self.circuit.release(
            admission,
            Verdict { outcome, ..Verdict::IGNORED },
            now.nanos_since(self.started),
            now,
        );
    }
}
