//! What changes at run time, who hears of it, and circuits by name.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tower::ServiceExt;
use tower_layer::Layer;
use tower_mesh_breaker::{
    BreakerConfig, BreakerLayer, Breakers, Circuit, CircuitEvent, OpenDelay, State, TripReason, WindowKind,
};
use tower_mesh_core::EndpointHandle;
use tower_mesh_core::classify::{ByResult, Origin, Outcome, Retry, Verdict};
use tower_service::Service;

use crate::inner::{Ask, Inner, now};

const FAILURE: Outcome = Outcome::Failure(Origin::Remote);

fn end(circuit: &Circuit, outcome: Outcome, times: u32) {
    for _ in 0..times {
        circuit.acquire(now()).unwrap().finish(outcome, Duration::ZERO, now());
    }
}

#[tokio::test(start_paused = true)]
async fn thresholds_change_and_what_the_window_holds_stays() {
    let circuit = Circuit::new(BreakerConfig::builder().consecutive_failures(0).build().unwrap(), now());
    end(&circuit, Outcome::Success, 16);
    end(&circuit, FAILURE, 4);
    assert_eq!(circuit.snapshot(now()).failure_rate(), Some(20.0));
    let strict = BreakerConfig::builder().consecutive_failures(0).failure_threshold(0.2);
    circuit.reload(strict.build().unwrap(), now());
    assert_eq!((circuit.state(), circuit.snapshot(now()).counts.total), (State::Closed, 20));
    end(&circuit, FAILURE, 1);
    assert_eq!(circuit.state(), State::Open, "judged by the new threshold over the old calls");
}

#[tokio::test(start_paused = true)]
async fn another_window_begins_empty_and_counts_as_the_first_did() {
    let calls = |calls| {
        let config = BreakerConfig::builder().window(WindowKind::Calls(calls)).consecutive_failures(0);
        config.min_calls(calls).build().unwrap()
    };
    let circuit = Circuit::new(calls(10), now());
    end(&circuit, FAILURE, 4);
    for size in [6, 4] {
        circuit.reload(calls(size), now());
        assert_eq!(circuit.snapshot(now()).counts.total, 0);
        end(&circuit, FAILURE, 3);
        assert_eq!((circuit.state(), circuit.snapshot(now()).counts.failed), (State::Closed, 3));
    }
    end(&circuit, FAILURE, 1);
    assert_eq!(circuit.state(), State::Open);
    circuit.close(now());
    assert_eq!(circuit.snapshot(now()).counts.total, 0);
}

#[tokio::test(start_paused = true)]
async fn a_layer_reloads_the_circuits_it_made_and_those_to_come() {
    let layer = BreakerLayer::new(BreakerConfig::default(), ByResult);
    let endpoints = ["a:1", "a:2"].map(|address| EndpointHandle::new(address.parse().unwrap()));
    let early = layer.watching(&endpoints[0]);
    let config = BreakerConfig::builder().consecutive_failures(2).slow_call_duration(Duration::from_secs(1));
    let config = config.slow_call_threshold(1.0).min_calls(3).build().unwrap();
    layer.clone().reload(config);
    let late = layer.watching(&endpoints[1]);
    for circuit in [layer.circuit(), early.circuit(), late.circuit()] {
        assert_eq!(circuit.config(), config);
    }
    assert_eq!(layer.config(), config);
    let mut service = early.layer(Inner::default());
    for _ in 0..3 {
        service.ready().await.unwrap().call(Ask::Take(Duration::from_secs(2))).await.unwrap();
    }
    assert_eq!(early.circuit().state(), State::Open, "slow is what the new configuration says");
    assert_eq!(early.circuit().snapshot(now()).counts.slow, 3);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_asks_for_a_wait_sets_it() {
    let config = BreakerConfig::builder().open_delay(OpenDelay::AsAsked).consecutive_failures(1);
    let circuit = Circuit::new(config.build().unwrap(), now());
    let wait = Duration::from_secs(42);
    let verdict = Verdict::failure(Origin::Remote, Retry::IfIdempotent).with_wait(Some(wait));
    circuit.acquire(now()).unwrap().finish_with(verdict, Duration::ZERO, now());
    assert_eq!(circuit.acquire(now()).unwrap_err().retry_after(), Some(wait));
}

#[tokio::test(start_paused = true)]
async fn listeners_hear_what_is_in_force_and_one_that_panics_hurts_nobody() {
    let layer = BreakerLayer::new(BreakerConfig::default(), ByResult);
    let heard = Arc::new(Mutex::new(Vec::new()));
    layer.on_transition(|_| panic!("listener"));
    let (told, endpoint) = (heard.clone(), EndpointHandle::new("a:1".parse().unwrap()));
    layer.on_transition(move |event: &CircuitEvent| {
        // It may give orders itself: no lock is held.
        if event.transition.to == State::Open {
            event.circuit.force_open(event.at);
        }
        let is_endpoint = event.circuit.endpoint().is_some();
        told.lock().unwrap().push((is_endpoint, event.transition.to, event.transition.reason));
    });
    let (watching, own) = (layer.watching(&endpoint), Arc::new(Mutex::new(0)));
    let told = own.clone();
    watching.circuit().on_transition(move |_| *told.lock().unwrap() += 1);
    layer.circuit().trip(now());
    end(watching.circuit(), FAILURE, 5);
    let trip = Some(TripReason::ConsecutiveFailures);
    let manual = Some(TripReason::Manual);
    // What a listener orders is told before the rest hears what it was told.
    assert_eq!(
        *heard.lock().unwrap(),
        [
            (false, State::ForcedOpen, manual),
            (false, State::Open, manual),
            (true, State::ForcedOpen, manual),
            (true, State::Open, trip),
        ]
    );
    assert_eq!(*own.lock().unwrap(), 2, "of its own circuit only");
    assert_eq!(watching.circuit().state(), State::ForcedOpen);
}

#[tokio::test(start_paused = true)]
async fn a_registry_knows_circuits_by_name_and_reloads_those_whose_configuration_changed() {
    let breakers = Breakers::new(BreakerConfig::default());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = heard.clone();
    breakers.on_transition(move |event| told.lock().unwrap().push(event.circuit.name().map(str::to_owned)));
    let (a, b) = (breakers.circuit("a"), breakers.circuit("b"));
    breakers.circuit("a").trip(now());
    assert_eq!((a.state(), b.state()), (State::Open, State::Closed));
    assert_eq!(*heard.lock().unwrap(), [Some("a".to_owned())]);
    let two = BreakerConfig::builder().consecutive_failures(2).build().unwrap();
    breakers.reload(BreakerConfig::default(), [("b".to_owned(), two), ("c".to_owned(), two)]);
    let configs = [&a, &b, &breakers.circuit("c")].map(|circuit| circuit.config().consecutive_failures());
    assert_eq!(configs, [5, 2, 2]);
    breakers.reload(BreakerConfig::default(), []);
    assert_eq!(b.config(), BreakerConfig::default());
    let names: Vec<_> = breakers.list().into_iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert!(breakers.find("d").is_none());

    let mut service = breakers.layer("b", ByResult).layer(Inner::default());
    for _ in 0..5 {
        service.ready().await.unwrap().call(Ask::Fail).await.unwrap_err();
    }
    assert_eq!(b.state(), State::Open);
}
