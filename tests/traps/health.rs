//! T7: health.

use std::sync::{Arc, Mutex};

use tower_mesh_core::EndpointHandle;
use tower_mesh_core::probe::{Probe, ProbeFailure, Probed};
use tower_mesh_health::policy::HealthState;
use tower_mesh_health::{HealthConfig, HealthLayer};
use tower_mesh_tests::{seconds, settle};

use crate::{Seen, assert_told_apart, ensure};

/// Who is down from the start is told to be down.
fn t7_down_from_the_start(told: &[HealthState]) -> Seen {
    ensure(told == [HealthState::Unhealthy], || format!("told: {told:?}"))
}

struct Unreachable;

impl Probe for Unreachable {
    async fn probe(&self, _: &EndpointHandle) -> Result<Probed, ProbeFailure> {
        Err(ProbeFailure::unreachable("connection refused"))
    }
}

/// Tells that it is down of those that were known to be up.
fn only_from_healthy(states: &[HealthState]) -> Vec<HealthState> {
    let falls = |pair: &&[HealthState]| pair[0] == HealthState::Healthy && pair[1] == HealthState::Unhealthy;
    states.windows(2).filter(falls).map(|pair| pair[1]).collect()
}

#[tokio::test(start_paused = true)]
async fn t7_down_at_start_is_told() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = told.clone();
    let (layer, prober) = HealthLayer::new(HealthConfig::default(), Unreachable);
    let prober = prober.on_transition(move |transition| listener.lock().unwrap().push(transition.to()));
    let endpoint = EndpointHandle::new("a:1".parse().unwrap());
    let _watch = layer.watching(&endpoint);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(prober);
    tokio::time::sleep(seconds(60)).await;
    settle().await;
    let states = [HealthState::Unknown, HealthState::Unhealthy, HealthState::Unhealthy];
    assert_told_apart(
        &t7_down_from_the_start(&told.lock().unwrap()),
        &t7_down_from_the_start(&only_from_healthy(&states)),
        "told: []",
    );
}
