//! One active check of one endpoint.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use futures_core::Stream;

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

    /// For an endpoint that tells by itself when its health changes: what it tells, as long as it does. None, which is the default, if it has to be
    /// asked again and again, by [`probe`](Self::probe).
    ///
    /// The prober bounds the time to the first item, takes every item for the endpoint's own word, which decides at once, and opens another stream some
    /// time after this one has ended. Begins when it is polled; must not keep a handle of the endpoint, whose record would else never go.
    fn watch(&self, endpoint: &EndpointHandle) -> Option<ProbeStream> {
        let _ = endpoint;
        None
    }
}

/// What [`Probe::watch`] tells of one endpoint.
pub type ProbeStream = Pin<Box<dyn Stream<Item = Result<Probed, ProbeFailure>> + Send>>;

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
    kind: Kind,
    reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unreachable,
    Unhealthy,
    Inconclusive,
}

impl ProbeFailure {
    /// No answer: connection refused, reset, timeout. Counts towards the fall threshold.
    pub fn unreachable(reason: impl Into<String>) -> Self {
        Self { kind: Kind::Unreachable, reason: reason.into() }
    }

    /// An answer that says no. Takes the endpoint out at once.
    pub fn unhealthy(reason: impl Into<String>) -> Self {
        Self { kind: Kind::Unhealthy, reason: reason.into() }
    }

    /// The check could not be made, for a reason that lies in this process: it has no file descriptors left, say. Tells nothing of the endpoint and
    /// moves nothing, so that no such trouble takes all endpoints out at once.
    pub fn inconclusive(reason: impl Into<String>) -> Self {
        Self { kind: Kind::Inconclusive, reason: reason.into() }
    }

    /// Whether the endpoint answered at all.
    pub fn is_answer(&self) -> bool {
        self.kind == Kind::Unhealthy
    }

    /// Whether it tells anything of the endpoint.
    pub fn is_conclusive(&self) -> bool {
        self.kind != Kind::Inconclusive
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
