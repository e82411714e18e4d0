//! The breaker's guard over one call.

use std::time::Instant;

use tower_mesh_core::CallContext;
use tower_mesh_core::classify::{Guard, Verdict};

use crate::circuit::Circuit;
use crate::policy::machine::{Admission, State};
use crate::service::clock;

/// Rides with a call to its end, the end of the response body included, and tells the circuit. Dropped before that, it reports an abandoned call.
#[derive(Debug)]
pub struct CircuitGuard {
    circuit: Circuit,
    /// None once it has been told.
    admission: Option<Admission>,
    started: Instant,
    /// When something last arrived; only a streaming response moves it.
    progressed: Instant,
}

impl CircuitGuard {
    pub(crate) fn new(circuit: Circuit, admission: Admission, started: Instant) -> Self {
        Self {
            circuit,
            admission: Some(admission),
            started,
            progressed: started,
        }
    }
}

impl Guard for CircuitGuard {
    fn progress(&mut self) {
        self.progressed = clock();
    }

    fn finish(mut self, verdict: Verdict) {
        if let Some(admission) = self.admission.take() {
            let now = CallContext::attempt_ended(self.started, clock);
            self.circuit.release(
                admission,
                verdict.outcome,
                now.saturating_duration_since(self.started),
                now,
            );
        }
    }
}

impl Drop for CircuitGuard {
    fn drop(&mut self) {
        let Some(admission) = self.admission.take() else {
            return;
        };
        if admission.state == State::Disabled {
            return;
        }
        let now = CallContext::attempt_ended(self.started, clock);
        let quiet = now.saturating_duration_since(self.progressed);
        let reason = CallContext::drop_reason_of(self.started);
        let outcome = self.circuit.config().abandoned().outcome(reason, quiet);
        self.circuit.release(
            admission,
            outcome,
            now.saturating_duration_since(self.started),
            now,
        );
    }
}
