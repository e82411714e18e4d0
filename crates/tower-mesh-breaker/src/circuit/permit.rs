//! Leave to make one call.

use std::time::Duration;

use tower_mesh_core::Tick;
use tower_mesh_core::classify::{Outcome, Verdict};

use super::Circuit;
use crate::policy::machine::{Admission, Counted};

/// Leave to make one call. Dropped unfinished it counts for nothing, and a trial call may be made in its stead.
#[derive(Debug)]
#[must_use = "a call that is made must be told how it ended"]
pub struct Permit {
    circuit: Circuit,
    admission: Option<Admission>,
}

impl Permit {
    /// Tells how the call ended, how long it took, and when.
    pub fn finish(self, outcome: Outcome, elapsed: Duration, now: Tick) {
        self.finish_with(Verdict { outcome, ..Verdict::IGNORED }, elapsed, now);
    }

    /// As [`finish`](Self::finish), by a verdict, in which the server may have asked for a wait ([`OpenDelay::AsAsked`](crate::OpenDelay::AsAsked)).
    pub fn finish_with(mut self, verdict: Verdict, elapsed: Duration, now: Tick) {
        if let Some(admission) = self.admission.take() {
            let elapsed_ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
            self.circuit.release(admission, verdict, elapsed_ns, now);
        }
    }

    pub(crate) fn of(circuit: Circuit, admission: Admission) -> Self {
        Self { circuit, admission: Some(admission) }
    }

    /// Leaves it to somebody else to tell how the call ended.
    pub(crate) fn into_admission(mut self) -> Admission {
        self.admission.take().expect("a permit has its admission until it is finished")
    }

    /// Whether the state that gave it is still there.
    pub(crate) fn still_holds(&self) -> bool {
        self.admission.is_some_and(|admission| self.circuit.still_holds(admission))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        match self.admission.take() {
            // Only a trial call has something to give back.
            Some(admission) if admission.counted() == Counted::Trial => {
                let now = Tick::of(tokio::time::Instant::now().into_std());
                self.circuit.release(admission, Verdict::IGNORED, 0, now);
            }
            _ => {}
        }
    }
}
