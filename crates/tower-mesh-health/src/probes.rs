//! Counting checks by what they said.

use std::sync::atomic::{AtomicU64, Ordering};

use tower_mesh_core::probe::{ProbeFailure, Probed};

/// Checks since the start, by what they said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ProbeCounts {
    /// Passed, with or without the wish to be avoided.
    pub passed: u64,
    /// Failed: no answer, or a bad one.
    pub failed: u64,
    /// Could not be made, which says nothing of the endpoint.
    pub inconclusive: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Probes {
    passed: AtomicU64,
    failed: AtomicU64,
    inconclusive: AtomicU64,
}

impl Probes {
    pub(crate) fn count(&self, result: &Result<Probed, ProbeFailure>) {
        let counter = match result {
            Ok(_) => &self.passed,
            Err(failure) if failure.is_conclusive() => &self.failed,
            Err(_) => &self.inconclusive,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> ProbeCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ProbeCounts {
            passed: read(&self.passed),
            failed: read(&self.failed),
            inconclusive: read(&self.inconclusive),
        }
    }
}
