//! A fast error never makes an endpoint look lightly loaded, and a recovered endpoint is not held to its past.

use futures_util::future::join_all;
use tower::{Layer, Service, ServiceExt};
use tower_mesh_breaker::{BreakerLayer, State};
use tower_mesh_core::classify::ByResult;
use tower_mesh_core::{BoxError, EndpointHandle};
use tower_mesh_discovery::{DiscoveryConfig, DiscoveryLayer, FixedList};
use tower_mesh_test::{Behaviour, Fleet, Stepped};
use tower_mesh_tests::{Query, balance, breaker, circuit_of, ms, now, retry, seconds, settle};

async fn calls_to_the_failing_one(config: DiscoveryConfig) -> u64 {
    let fleet = Fleet::<Query>::new(["bad:1", "good:1"]);
    let list = FixedList::new(fleet.endpoints()).unwrap();
    let (layer, driver) = DiscoveryLayer::with_config(&list, "users".parse().unwrap(), config);
    let connect = fleet.clone();
    let service = layer.connect(move |endpoint: &EndpointHandle| connect.connect(endpoint));
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(driver);
    settle().await;
    fleet.set("bad:1", Behaviour::Failing);
    fleet.set("good:1", Behaviour::Slow(ms(50)));
    for n in 0..200 {
        let _ = service.clone().oneshot(Query(n)).await;
    }
    fleet.at("bad:1").calls()
}

#[tokio::test(start_paused = true)]
async fn who_fails_at_once_attracts_no_traffic() {
    let calls = calls_to_the_failing_one(DiscoveryConfig::default()).await;
    assert!(calls <= 2, "{calls} of 200");
}

#[tokio::test(start_paused = true)]
async fn without_the_penalty_it_would() {
    let config = DiscoveryConfig::builder().failure_penalty(ms(0)).build().unwrap();
    let calls = calls_to_the_failing_one(config).await;
    assert!(calls > 100, "{calls} of 200: the test tells the two apart");
}

#[tokio::test(start_paused = true)]
async fn retries_are_not_eaten_by_who_fails_at_once() {
    let (fleet, breakers, retries) = (Fleet::<Query>::new(["bad:1", "good:1"]), breaker(), retry());
    let service = retries.layer(balance(&fleet, &breakers));
    settle().await;
    fleet.set("bad:1", Behaviour::Failing);
    fleet.set("good:1", Behaviour::Slow(ms(20)));
    for n in 0..200 {
        assert!(service.clone().oneshot(Query(n)).await.is_ok());
    }
    assert!(retries.get_budget().snapshot(now()).granted <= 5);
}

/// What was learned while things were bad must not keep the trial call away, or nobody finds out that they are good again.
#[tokio::test(start_paused = true)]
async fn an_endpoint_is_tried_when_its_wait_is_over_and_gets_its_share_at_once() {
    let (fleet, breakers) = (Fleet::<Query>::new(["a:1", "b:1"]), breaker());
    let service = balance(&fleet, &breakers);
    settle().await;
    fleet.set("a:1", Behaviour::Failing);
    fleet.set("b:1", Behaviour::Slow(ms(20)));
    for n in 0..20 {
        let _ = service.clone().oneshot(Query(n)).await;
    }
    assert!(fleet.at("a:1").calls() > 0);
    circuit_of(&breakers, "a:1").trip(now());
    assert_eq!(share_of_a_after_the_wait(&fleet, &service, &breakers).await, State::Closed);
}

/// Nor must a call that began before, and streams on or hangs: it is no newcomer's first call.
#[tokio::test(start_paused = true)]
async fn also_while_a_call_from_before_is_still_out() {
    let (fleet, breakers) = (Fleet::<Query>::new(["a:1", "b:1"]), breaker());
    let service = balance(&fleet, &breakers);
    settle().await;
    fleet.set("a:1", Behaviour::Hanging);
    fleet.set("b:1", Behaviour::Slow(ms(20)));
    let mut calls: Vec<_> = (0..10).map(|n| Stepped::new(service.clone().oneshot(Query(n)))).collect();
    assert!(calls.iter_mut().all(|call| call.poll().is_pending()));
    tokio::time::advance(ms(20)).await;
    calls.retain_mut(|call| call.poll().is_pending());
    assert!(!calls.is_empty());
    let of_a = |endpoint: &EndpointHandle| endpoint.id().as_str() == "a:1";
    let endpoint = service.status().endpoints.into_iter().find(of_a).unwrap();
    assert!(endpoint.counts().in_flight() > 0);
    circuit_of(&breakers, "a:1").trip(now());
    assert_eq!(share_of_a_after_the_wait(&fleet, &service, &breakers).await, State::Closed);
}

async fn share_of_a_after_the_wait(
    fleet: &Fleet<Query>,
    service: &(impl Service<Query, Response = String, Error = BoxError> + Clone),
    breakers: &BreakerLayer<ByResult>,
) -> State {
    fleet.set("a:1", Behaviour::Slow(ms(20)));
    tokio::time::advance(seconds(5)).await;
    let before = fleet.at("a:1").calls();
    for _ in 0..10 {
        let answers = join_all((0..20).map(|n| service.clone().oneshot(Query(n)))).await;
        assert!(answers.iter().all(Result::is_ok));
    }
    let share = fleet.at("a:1").calls() - before;
    assert!((50..=150).contains(&share), "{share} of 200 within a second of recovery");
    circuit_of(breakers, "a:1").state()
}
