//! One active check of one endpoint.

use std::fmt;
use std::future::Future;

use crate::handle::EndpointHandle;

/// Asks an endpoint whether it is well, by whatever protocol it speaks.
///
/// ```
/// use tower_mesh_core::probe::{Probe, ProbeFailure, Probed};
/// use tower_mesh_core::EndpointHandle;
///
/// struct Ping;
///
/// impl Probe for Ping {
///     async fn probe(&self, endpoint: &EndpointHandle) -> Result<Probed, ProbeFailure> {
///         match endpoint.endpoint().address() {
///             "db:1" => Ok(Probed::Healthy),
///             other => Err(ProbeFailure::unreachable(format!("no route to {other}"))),
///         }
///     }
/// }
/// ```
pub trait Probe: Send + Sync + 'static {
    /// One check. The prober bounds its time; a dropped check must leave nothing behind.
    fn probe(&self, endpoint: &EndpointHandle) -> impl Future<Output = Result<Probed, ProbeFailure>> + Send;
}

/// A check that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Probed {
    /// All is well.
    Healthy,
    /// It works, but asks to be used only if need be.
    Degraded,
}

/// A check that did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFailure {
    answered: bool,
    reason: String,
}

impl ProbeFailure {
    /// No answer: connection refused, reset, timeout. Counts towards the fall threshold.
    pub fn unreachable(reason: impl Into<String>) -> Self {
        Self { answered: false, reason: reason.into() }
    }

    /// An answer that says no. Takes the endpoint out at once.
    pub fn unhealthy(reason: impl Into<String>) -> Self {
        Self { answered: true, reason: reason.into() }
    }

    /// Whether the endpoint answered at all.
    pub fn is_answer(&self) -> bool {
        self.answered
    }

    /// What happened, for people.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for ProbeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for ProbeFailure {}
