//! From endpoints to services, and from services to the program: how it is as a whole, and whether it should get requests.

use std::fmt;

use serde::Serialize;
use tower_mesh_core::ResolveError;
use tower_mesh_discovery::DiscoveryState;

use crate::config::ReadyWhen;
use crate::status::{EndpointStatus, MeshState, MeshStatus};

/// How a service is as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceState {
    /// Its source has not answered yet.
    Unknown,
    /// Nothing speaks against any endpoint.
    Healthy,
    /// Calls can go somewhere, but not all is well.
    Degraded,
    /// Calls can go nowhere.
    Unavailable,
}

impl fmt::Display for ServiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unavailable => "unavailable",
        })
    }
}

/// How many endpoints are told of by name; the others are counted.
const NAMED: usize = 3;

/// How a service is whose source stands so and whose endpoints are these, and why it is not healthy.
pub(crate) fn aggregate(
    source: DiscoveryState,
    error: Option<&ResolveError>,
    endpoints: &[EndpointStatus],
) -> (ServiceState, Vec<String>) {
    let error = error.map(|error| format!(": {error}")).unwrap_or_default();
    let source = match source {
        DiscoveryState::NotDriven => Some("discovery is not running".to_owned()),
        DiscoveryState::Resolving => Some("not resolved yet".to_owned()),
        DiscoveryState::Stale => Some(format!("endpoints are stale{error}")),
        DiscoveryState::Failed => Some(format!("not resolved{error}")),
        DiscoveryState::NotFound => Some("the source knows no such service".to_owned()),
        DiscoveryState::Expired => Some(format!("endpoints are too old to use{error}")),
        _ => None,
    };
    let mut why = Vec::from_iter(source.clone());
    if endpoints.is_empty() {
        let unknown = why.iter().any(|why| why == "discovery is not running" || why == "not resolved yet");
        if why.is_empty() {
            why.push("it has no endpoints".to_owned());
        }
        return (if unknown { ServiceState::Unknown } else { ServiceState::Unavailable }, why);
    }
    let of = |endpoint: &&EndpointStatus| {
        !endpoint.available || matches!(&*endpoint.state, "degraded" | "unhealthy" | "draining")
    };
    let ill: Vec<_> = endpoints.iter().filter(of).collect();
    if !ill.is_empty() {
        let named = ill.iter().take(NAMED);
        let named: Vec<_> =
            named.map(|ill| format!("{} {} ({})", ill.id, ill.state, ill.why.join("; "))).collect();
        let more = ill.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        why.push(format!("{} of {} endpoints: {}{more}", ill.len(), endpoints.len(), named.join(", ")));
    }
    let state = match endpoints.iter().any(|endpoint| endpoint.available) {
        false => ServiceState::Unavailable,
        true if why.is_empty() => ServiceState::Healthy,
        true => ServiceState::Degraded,
    };
    (state, why)
}

/// Whether a program should get requests, and why not, or what is not well.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Readiness {
    /// Whether it should.
    pub ready: bool,
    /// Why it should not.
    pub reasons: Vec<String>,
    /// What is not well, and does not make it unready.
    pub degraded: Vec<String>,
    /// Each service, and what is required of it.
    pub services: Vec<Requirement>,
}

/// One service, as readiness sees it.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Requirement {
    /// Its name.
    pub service: String,
    /// What is required: `nothing`, `resolved` or `available`.
    pub required: &'static str,
    /// How it is.
    pub state: ServiceState,
    /// Whether what is required holds.
    pub met: bool,
}

impl Readiness {
    /// `wanted`: of each service, in the order of the status, whether it is required and for what.
    pub(crate) fn of(status: &MeshStatus, wanted: impl Iterator<Item = (bool, ReadyWhen)>) -> Self {
        let mut readiness =
            Self { ready: true, reasons: Vec::new(), degraded: Vec::new(), services: Vec::new() };
        if status.state != MeshState::Running {
            readiness.reasons.push(format!("the mesh is {}", status.state));
        }
        for (service, (required, ready_when)) in status.services.iter().zip(wanted) {
            let (name, met) = match (required, ready_when) {
                (false, _) => ("nothing", true),
                (true, ReadyWhen::Resolved) => ("resolved", !service.endpoints.is_empty()),
                (true, ReadyWhen::Available) => {
                    ("available", matches!(service.state, ServiceState::Healthy | ServiceState::Degraded))
                }
            };
            let say = || format!("service {} is {}: {}", service.name, service.state, service.why.join("; "));
            match (met, service.state) {
                (false, _) => readiness.reasons.push(say()),
                (true, ServiceState::Healthy) => {}
                (true, _) => readiness.degraded.push(say()),
            }
            let service = service.name.clone();
            let state = status.services[readiness.services.len()].state;
            readiness.services.push(Requirement { service, required: name, state, met });
        }
        readiness.ready = readiness.reasons.is_empty();
        readiness
    }
}
