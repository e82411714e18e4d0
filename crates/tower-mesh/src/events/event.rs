//! What is told: plain values that serialise.

use std::collections::BTreeMap;

use serde::Serialize;

/// Something that happened in a mesh. For operators: it names endpoints and their addresses.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Event {
    /// Counts the events of this mesh that were told to anybody, from 0: a gap is something missed.
    pub sequence: u64,
    /// When it was told, in milliseconds since 1970.
    pub at_ms: u64,
    /// The service it is about; none if it is about the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened. Serialised, `event` holds the name of the kind.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EventKind {
    /// The mesh takes calls, and its services are being resolved.
    Starting,
    /// Background work has been started.
    ComponentStarted {
        /// `discovery`, `credentials`, `outlier` or `health`.
        component: &'static str,
    },
    /// Background work came to an end that it should not have, or a required service could not be resolved in time.
    ComponentFailed {
        /// `discovery`, `credentials`, `outlier` or `health`.
        component: &'static str,
        /// Why.
        error: String,
    },
    /// Every required service is resolved.
    Started,
    /// The mesh takes no more calls.
    ShuttingDown,
    /// Every task has ended. The last event.
    Stopped {
        /// Calls that were still under way when the grace was over.
        cut_off: u64,
    },
    /// Endpoints came, went, or are described otherwise.
    EndpointsChanged {
        /// How often that was so, this time included.
        version: u64,
        /// Those that are new.
        added: Endpoints,
        /// Those that are gone.
        removed: Endpoints,
        /// Those that stayed with another address or other attributes.
        changed: Endpoints,
        /// How many were left out, being over the bound.
        over: usize,
    },
    /// The source of endpoints failed. The last good endpoints stay in use.
    DiscoveryFailed {
        /// With what.
        error: String,
        /// Where resolution stands: see [`ServiceStatus::discovery`](crate::ServiceStatus::discovery).
        state: String,
    },
    /// The source answers again.
    DiscoveryRecovered {
        /// Where resolution stood before.
        from: String,
    },
    /// Resolution stands elsewhere than before.
    DiscoveryChanged {
        /// Before.
        from: String,
        /// Now.
        to: String,
    },
    /// A circuit changed its state.
    CircuitChanged {
        /// Whose it is; none if it is not that of one endpoint.
        endpoint: Option<EndpointRef>,
        /// The state before.
        from: &'static str,
        /// The state now.
        to: &'static str,
        /// Why it opened, if it did.
        reason: Option<&'static str>,
        /// Counts the transitions of this circuit.
        generation: u64,
        /// Calls counted in the state before.
        total: u64,
        /// Those of them that failed.
        failed: u64,
        /// Those of them that were slow.
        slow: u64,
        /// How long it stays open, in milliseconds, if a time is set.
        open_for_ms: Option<u64>,
    },
    /// An endpoint was ejected for being worse than its peers.
    EndpointEjected {
        /// Which.
        endpoint: EndpointRef,
        /// By which rule.
        rule: &'static str,
        /// For how long, in milliseconds.
        for_ms: u64,
        /// How often it has been ejected, less what has been forgotten.
        ejections: u32,
    },
    /// An endpoint is worse than its peers and was left in.
    EjectionWithheld {
        /// Which.
        endpoint: EndpointRef,
        /// By which rule.
        rule: &'static str,
        /// `dry-run` or `too-many`.
        why: &'static str,
    },
    /// An ejected endpoint is back.
    EndpointReadmitted {
        /// Which.
        endpoint: EndpointRef,
        /// `time` or `probe`.
        by: &'static str,
    },
    /// Probes have changed their mind about an endpoint.
    HealthChanged {
        /// Which.
        endpoint: EndpointRef,
        /// The state before.
        from: String,
        /// The state now.
        to: String,
        /// The probe that decided it, in words.
        reason: String,
    },
    /// A call failed and was not sent again.
    RetryGivenUp {
        /// The operation, if the call named one.
        operation: Option<&'static str>,
        /// Why there was no other attempt: a name of [`StopReason`](tower_mesh_retry::error::StopReason).
        reason: &'static str,
        /// The attempts, in their order.
        attempts: Vec<TriedAt>,
        /// Retries that the budget could pay for then.
        budget_balance: u64,
    },
    /// A call was refused because its caller may not make it.
    CallNotAllowed {
        /// The operation, if the call named one.
        operation: Option<&'static str>,
        /// Who called, if that is known.
        caller: Option<&'static str>,
        /// Why not.
        reason: String,
    },
    /// Another configuration is in force.
    Reloaded {
        /// Services that are new.
        added: Vec<String>,
        /// Services that are gone.
        removed: Vec<String>,
        /// The others that differ, each with the tables and fields that do.
        changed: BTreeMap<String, Vec<&'static str>>,
    },
    /// Another configuration was refused. The old one stays.
    ReloadRefused {
        /// What is wrong with it.
        error: String,
    },
    /// The program should get requests now, or no longer: see [`Mesh::readiness`](crate::Mesh::readiness). Looked at once a second.
    ReadinessChanged {
        /// Whether it should.
        ready: bool,
        /// Why it should not.
        reasons: Vec<String>,
    },
}

/// An endpoint by its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EndpointRef {
    /// Who it is.
    pub id: String,
    /// Where it is, if whoever told knows that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// Some endpoints, of which the first are named.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Endpoints {
    /// How many.
    pub count: usize,
    /// The first of them, at most [`MAX_NAMED`](Self::MAX_NAMED).
    pub first: Vec<EndpointRef>,
}

impl Endpoints {
    /// How many are named in one event.
    pub const MAX_NAMED: usize = 64;
}

/// An attempt of a call that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TriedAt {
    /// Why it failed: a name of [`FailureReason`](tower_mesh_retry::error::FailureReason).
    pub reason: &'static str,
    /// The wait before it, in milliseconds.
    pub after_ms: u64,
    /// The id of the endpoint it went to, if it went to one.
    pub endpoint: Option<String>,
}
