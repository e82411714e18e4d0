//! What a mesh tells to the `metrics` facade, once a second, out of what its layers count anyway. The table is in the crate's README; a test keeps it true.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use metrics::{Label, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use tower_mesh_core::{ServiceName, Tick};
use tower_mesh_health::policy::{HealthState, merge};
use tower_mesh_retry::error::{FailureReason, StopReason};

use crate::mesh::Parts;
use crate::part::Part;

/// Tells the recorder, which is the user's: if it panics, what it was not told of is told by the next look, and the rest of the mesh goes on.
#[derive(Default)]
pub(crate) struct Metering {
    services: BTreeMap<ServiceName, Known>,
    panicked: bool,
}

#[derive(Default)]
struct Known {
    part: Weak<Part>,
    told: Told,
}

impl Metering {
    /// Says what each metric is, to the recorder that is installed when the mesh starts.
    pub(crate) fn new() -> Self {
        let mut metering = Self::default();
        guarded(&mut metering.panicked, describe);
        metering
    }

    /// Tells of the services that there are, and of those that went since the last time.
    pub(crate) fn publish(&mut self, parts: &Parts, now: Tick) {
        let Self { services, panicked } = self;
        for (name, part) in parts {
            let known = services.entry(name.clone()).or_default();
            let is = Arc::downgrade(part);
            if !known.part.ptr_eq(&is) {
                *known = Known { part: is, told: Told::default() };
            }
            guarded(panicked, || publish(part, &mut known.told, now));
        }
        services.retain(|name, _| parts.contains_key(name) || !guarded(panicked, || gone(name)));
    }
}

/// Whether it was told to the end.
fn guarded(panicked: &mut bool, tell: impl FnOnce()) -> bool {
    let well = catch_unwind(AssertUnwindSafe(tell)).is_ok();
    // It would be said every second.
    if !well && !std::mem::replace(panicked, true) {
        tracing::error!("the recorder of metrics panicked; this is told once");
    }
    well
}

/// How far the counters of a service were told. It goes with the service: one that comes back has counted nothing, and what it counts is added to what the recorder has.
#[derive(Default)]
pub(crate) struct Told(HashMap<(&'static str, [&'static str; 2]), u64>);

impl Told {
    /// Tells what the counter has counted since it was last told. `labels` are those beside the service.
    fn count<const N: usize>(
        &mut self,
        service: &ServiceName,
        name: &'static str,
        labels: [(&'static str, &'static str); N],
        count: u64,
    ) {
        const { assert!(N <= 2, "as many as its key takes") };
        let mut values = [""; 2];
        let mut all = vec![Label::new("service", service.to_string())];
        for (place, (label, value)) in values.iter_mut().zip(labels) {
            *place = value;
            all.push(Label::from_static_parts(label, value));
        }
        let told = self.0.entry((name, values)).or_default();
        // Also if it is nothing: that there is such a counter is told.
        counter!(name, all).increment(count.saturating_sub(*told));
        *told = count;
    }
}

fn describe() {
    describe_gauge!("tower_mesh_discovery_endpoints", "endpoints known");
    describe_gauge!("tower_mesh_discovery_age_seconds", Unit::Seconds, "time since the source last answered");
    describe_counter!("tower_mesh_discovery_errors_total", "failures of the source");
    describe_gauge!("tower_mesh_endpoints", "endpoints by the verdict of all that is known");
    describe_counter!("tower_mesh_probes_total", "probes by what they said");
    describe_counter!("tower_mesh_attempts_total", "attempts at endpoints by how they ended");
    describe_gauge!("tower_mesh_attempts_in_flight", "attempts under way, bodies being read included");
    describe_counter!("tower_mesh_retries_total", "retries by why the attempt before had failed");
    describe_counter!("tower_mesh_retry_stopped_total", "calls given up, by why there was no other attempt");
    describe_gauge!("tower_mesh_retry_budget_balance", "retries that the budget can pay for");
    describe_gauge!("tower_mesh_retries_in_flight", "retries under way, the waits before them included");
    describe_counter!("tower_mesh_hedges_total", "hedges sent, won, and refused by the budget");
    describe_counter!("tower_mesh_calls_total", "calls by how they ended");
    describe_histogram!(
        "tower_mesh_call_duration_seconds",
        Unit::Seconds,
        "time to the head of the response"
    );
    describe_gauge!("tower_mesh_circuits", "circuits by state");
    describe_counter!("tower_mesh_circuit_transitions_total", "changes of state of circuits");
    describe_counter!("tower_mesh_circuit_refused_total", "calls refused by circuits");
}

/// A service was taken out: what it had now is nothing. Its counters stay, and go on when it comes back.
fn gone(name: &ServiceName) {
    let service = || metrics::SharedString::from(name.to_string());
    for state in STATES {
        gauge!("tower_mesh_endpoints", "service" => service(), "state" => state.as_str()).set(0.0);
    }
    gauge!("tower_mesh_discovery_endpoints", "service" => service()).set(0.0);
    gauge!("tower_mesh_attempts_in_flight", "service" => service()).set(0.0);
    gauge!("tower_mesh_retries_in_flight", "service" => service()).set(0.0);
    gauge!("tower_mesh_retry_budget_balance", "service" => service()).set(0.0);
}

const STATES: [HealthState; 5] = [
    HealthState::Unknown,
    HealthState::Healthy,
    HealthState::Degraded,
    HealthState::Unhealthy,
    HealthState::Draining,
];

fn publish(part: &Part, told: &mut Told, now: Tick) {
    let service = || metrics::SharedString::from(part.name.to_string());

    let discovery = part.discovery.status();
    gauge!("tower_mesh_discovery_endpoints", "service" => service()).set(discovery.endpoints.len() as f64);
    if let Some(at) = discovery.updated_at {
        gauge!("tower_mesh_discovery_age_seconds", "service" => service()).set(now.since(at).as_secs_f64());
    }
    told.count(&part.name, "tower_mesh_discovery_errors_total", [], discovery.errors);

    let health = part.health.as_ref().map(|health| (health.status(), health.probes()));
    let verdicts: Vec<_> = match &health {
        Some((health, _)) => health.iter().map(|health| health.verdict()).collect(),
        None => {
            let endpoints = discovery.endpoints.iter();
            let answered = |endpoint: &tower_mesh_core::EndpointHandle| endpoint.counts().succeeded > 0;
            endpoints
                .map(|endpoint| merge(HealthState::Unknown, endpoint.availability(), answered(endpoint)))
                .collect()
        }
    };
    for state in STATES {
        let count = verdicts.iter().filter(|verdict| **verdict == state).count();
        gauge!("tower_mesh_endpoints", "service" => service(), "state" => state.as_str()).set(count as f64);
    }
    if let Some((_, probes)) = health {
        let results =
            [("passed", probes.passed), ("failed", probes.failed), ("inconclusive", probes.inconclusive)];
        for (result, count) in results {
            told.count(&part.name, "tower_mesh_probes_total", [("result", result)], count);
        }
    }

    let total = part.seen.total();
    let outcomes = [("succeeded", total.succeeded), ("failed", total.failed), ("abandoned", total.abandoned)];
    for (outcome, count) in outcomes {
        told.count(&part.name, "tower_mesh_attempts_total", [("outcome", outcome)], count);
    }
    let in_flight: u64 = discovery.endpoints.iter().map(|endpoint| endpoint.counts().in_flight()).sum();
    gauge!("tower_mesh_attempts_in_flight", "service" => service()).set(in_flight as f64);

    let retries = part.retry.counts();
    for reason in FailureReason::ALL {
        let count = retries.retries(reason);
        told.count(&part.name, "tower_mesh_retries_total", [("reason", reason.as_str())], count);
    }
    for reason in StopReason::ALL {
        let count = retries.stopped(reason);
        told.count(&part.name, "tower_mesh_retry_stopped_total", [("reason", reason.as_str())], count);
    }
    let budget = part.retry.get_budget().snapshot(now);
    gauge!("tower_mesh_retry_budget_balance", "service" => service()).set(budget.balance as f64);
    gauge!("tower_mesh_retries_in_flight", "service" => service()).set(f64::from(budget.in_flight));
    let hedges = part.hedge.counts();
    for (result, count) in [("sent", hedges.sent), ("won", hedges.won), ("denied", hedges.denied)] {
        told.count(&part.name, "tower_mesh_hedges_total", [("result", result)], count);
    }

    if let Some(calls) = &part.measured {
        calls.tell_durations(
            || metrics::histogram!("tower_mesh_call_duration_seconds", "service" => service()),
        );
        for (operation, outcome, count) in calls.counts() {
            let operation = operation.map_or("", |operation| operation.as_str());
            let labels = [("operation", operation), ("outcome", outcome)];
            told.count(&part.name, "tower_mesh_calls_total", labels, count);
        }
    }
}
