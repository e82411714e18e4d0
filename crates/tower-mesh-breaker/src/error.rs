//! The breaker's refusal.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use tower_mesh_core::classify::Verdict;
use tower_mesh_core::error::Judged;

/// The circuit is open, or half-open with all trial calls out. Nothing was sent; the request may be sent elsewhere at once.
#[derive(Debug)]
pub struct CircuitOpen {
    judged: Judged,
}

impl CircuitOpen {
    pub(crate) fn new(retry_after: Option<Duration>) -> Self {
        Self { judged: Judged::new(Verdict::REFUSED.with_wait(retry_after)) }
    }

    /// How long until it is worth asking again, if that is known. None for a circuit that is forced open.
    pub fn retry_after(&self) -> Option<Duration> {
        self.judged.verdict().wait
    }
}

impl fmt::Display for CircuitOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.retry_after() {
            Some(wait) => write!(f, "circuit open, to be tried again in {wait:?}"),
            None => f.write_str("circuit open"),
        }
    }
}

impl Error for CircuitOpen {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.judged)
    }
}
