//! From what the layers tell to what the mesh tells.

use std::time::Duration;

use tower_mesh_breaker::CircuitEvent;
use tower_mesh_breaker::outlier::OutlierEvent;
use tower_mesh_breaker::outlier::policy::Change;
use tower_mesh_core::{EndpointHandle, EndpointId};
use tower_mesh_discovery::{DiscoveryEvent, DiscoveryState};
use tower_mesh_retry::GaveUp;

use super::event::{EndpointRef, Endpoints, EventKind, TriedAt};
use crate::status::kebab;

impl From<&EndpointHandle> for EndpointRef {
    fn from(endpoint: &EndpointHandle) -> Self {
        Self { id: endpoint.id().to_string(), address: Some(endpoint.endpoint().address().to_owned()) }
    }
}

impl From<&EndpointId> for EndpointRef {
    fn from(id: &EndpointId) -> Self {
        Self { id: id.to_string(), address: None }
    }
}

impl From<&[EndpointHandle]> for Endpoints {
    fn from(endpoints: &[EndpointHandle]) -> Self {
        let first = endpoints.iter().take(Self::MAX_NAMED).map(EndpointRef::from).collect();
        Self { count: endpoints.len(), first }
    }
}

/// None of what this version does not know.
pub(crate) fn of_discovery(event: &DiscoveryEvent) -> Option<EventKind> {
    use DiscoveryState::{Current, Expired, Failed, Stale};
    Some(match event {
        DiscoveryEvent::Endpoints(change) => EventKind::EndpointsChanged {
            version: change.version,
            added: change.added[..].into(),
            removed: change.removed[..].into(),
            changed: change.changed[..].into(),
            over: change.over,
        },
        DiscoveryEvent::Failed { error, state } => {
            EventKind::DiscoveryFailed { error: error.to_string(), state: kebab(state) }
        }
        DiscoveryEvent::State { from: from @ (Failed | Stale | Expired), to: Current } => {
            EventKind::DiscoveryRecovered { from: kebab(from) }
        }
        DiscoveryEvent::State { from, to } => {
            EventKind::DiscoveryChanged { from: kebab(from), to: kebab(to) }
        }
        _ => return None,
    })
}

impl From<&CircuitEvent> for EventKind {
    fn from(event: &CircuitEvent) -> Self {
        let (transition, circuit) = (&event.transition, &event.circuit);
        Self::CircuitChanged {
            endpoint: circuit.handle().map(EndpointRef::from),
            from: transition.from.as_str(),
            to: transition.to.as_str(),
            reason: transition.reason.map(|reason| reason.as_str()),
            generation: transition.generation,
            total: transition.counts.total,
            failed: transition.counts.failed,
            slow: transition.counts.slow,
            open_for_ms: transition.open_for.map(millis),
        }
    }
}

/// None of what this version does not know.
pub(crate) fn of_outlier(event: &OutlierEvent) -> Option<EventKind> {
    let endpoint = EndpointRef::from(&event.endpoint);
    Some(match event.change {
        Change::Ejected { rule, time } => EventKind::EndpointEjected {
            endpoint,
            rule: rule.as_str(),
            for_ms: millis(time),
            ejections: event.ejections,
        },
        Change::NotEnforced(rule) => {
            EventKind::EjectionWithheld { endpoint, rule: rule.as_str(), why: "dry-run" }
        }
        Change::TooMany(rule) => {
            EventKind::EjectionWithheld { endpoint, rule: rule.as_str(), why: "too-many" }
        }
        Change::Restored => EventKind::EndpointReadmitted { endpoint, by: "time" },
        Change::Recovered => EventKind::EndpointReadmitted { endpoint, by: "probe" },
        _ => return None,
    })
}

impl From<&tower_mesh_health::Transition> for EventKind {
    fn from(change: &tower_mesh_health::Transition) -> Self {
        Self::HealthChanged {
            endpoint: change.endpoint().into(),
            from: change.from().to_string(),
            to: change.to().to_string(),
            reason: change.reason().to_owned(),
        }
    }
}

impl From<&GaveUp> for EventKind {
    fn from(call: &GaveUp) -> Self {
        let attempts = call.attempts.iter().map(|attempt| TriedAt {
            reason: attempt.reason().as_str(),
            after_ms: millis(attempt.after()),
            endpoint: attempt.endpoint().map(ToString::to_string),
        });
        Self::RetryGivenUp {
            operation: call.operation.map(|operation| operation.as_str()),
            reason: call.reason.as_str(),
            attempts: attempts.collect(),
            budget_balance: call.budget.balance,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
