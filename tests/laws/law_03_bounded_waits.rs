//! Nothing waits for ever. Not yet resolved, resolver broken, resolved to nothing and all unavailable are four states with four bounded, typed
//! answers; so is a driver that does not run, and an endpoint that does not become ready.

use std::time::Duration;

use tower::{Layer, ServiceExt};
use tower_mesh_core::error::{Judged, find};
use tower_mesh_core::{BoxError, EndpointHandle, Update};
use tower_mesh_discovery::{
    Balance, DiscoveryConfig, DiscoveryLayer, DiscoveryState, NoEndpoints, NoEndpointsReason, NotDriven,
    NotReady,
};
use tower_mesh_retry::error::DeadlineExceeded;
use tower_mesh_retry::{DeadlineConfig, DeadlineLayer};
use tower_mesh_test::{Down, Fleet, Inner, ScriptedResolver};
use tower_mesh_tests::{Query, balance, breaker, circuit_of, now, seconds, settle};

type Service = Balance<Inner<Query, String>, tower_mesh_core::classify::ByResult>;

fn service(resolver: &ScriptedResolver) -> (Fleet<Query>, Service) {
    let fleet = Fleet::new(["a:1", "b:1"]);
    let connect = fleet.clone();
    let layer = DiscoveryLayer::spawn(resolver, "users".parse().unwrap());
    (fleet, layer.connect(move |endpoint: &EndpointHandle| connect.connect(endpoint)))
}

/// The error of one call, and how long it took.
async fn refusal(service: &Service) -> (BoxError, Duration) {
    let start = now();
    let answer = tokio::time::timeout(seconds(60), service.clone().oneshot(Query(0))).await;
    (answer.expect("a call waits for ever").unwrap_err(), now().since(start))
}

async fn no_endpoints(service: &Service) -> (NoEndpointsReason, Duration) {
    let (error, took) = refusal(service).await;
    let verdict = find::<Judged>(&*error).expect("judged by us").verdict();
    assert_eq!(verdict.outcome, tower_mesh_core::classify::Outcome::Refused);
    (find::<NoEndpoints>(&*error).expect("typed").reason(), took)
}

#[tokio::test(start_paused = true)]
async fn not_resolved_yet() {
    let resolver = ScriptedResolver::new();
    let (_, service) = service(&resolver);
    assert_eq!(no_endpoints(&service).await, (NoEndpointsReason::NotResolved, seconds(3)));
}

#[tokio::test(start_paused = true)]
async fn the_source_fails_and_never_answered() {
    let resolver = ScriptedResolver::new();
    let (_, service) = service(&resolver);
    resolver.fail("the registry");
    settle().await;
    let (error, took) = refusal(&service).await;
    assert_eq!(find::<NoEndpoints>(&*error).unwrap().reason(), NoEndpointsReason::ResolverFailed);
    assert_eq!(find::<Down>(&*error), Some(&Down("the registry".into())), "why is in the chain");
    assert_eq!(took, seconds(3), "it may yet answer");
}

#[tokio::test(start_paused = true)]
async fn the_source_ends_and_never_answered() {
    let resolver = ScriptedResolver::new();
    let (_, service) = service(&resolver);
    resolver.end();
    settle().await;
    assert_eq!(no_endpoints(&service).await, (NoEndpointsReason::ResolverFailed, seconds(3)));
}

#[tokio::test(start_paused = true)]
async fn there_is_no_such_service() {
    let resolver = ScriptedResolver::new();
    let (_, service) = service(&resolver);
    resolver.send(Update::NotFound);
    assert_eq!(no_endpoints(&service).await, (NoEndpointsReason::NotFound, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn the_service_has_no_endpoints() {
    let resolver = ScriptedResolver::new();
    let (_, service) = service(&resolver);
    resolver.reset([]);
    assert_eq!(no_endpoints(&service).await, (NoEndpointsReason::Empty, Duration::ZERO));
    resolver.reset(["a:1"]);
    settle().await;
    assert_eq!(service.clone().oneshot(Query(0)).await.unwrap(), "a:1", "nothing of it sticks");
}

#[tokio::test(start_paused = true)]
async fn all_are_unavailable() {
    let (fleet, breakers) = (Fleet::<Query>::new(["a:1", "b:1"]), breaker());
    let service = balance(&fleet, &breakers);
    settle().await;
    circuit_of(&breakers, "a:1").trip(now());
    tokio::time::advance(seconds(1)).await;
    circuit_of(&breakers, "b:1").force_open(now());
    let start = now();
    let error = service.clone().oneshot(Query(0)).await.unwrap_err();
    let refusal = find::<NoEndpoints>(&*error).unwrap();
    assert_eq!(refusal.reason(), NoEndpointsReason::AllUnavailable);
    assert_eq!(refusal.retry_after(), Some(seconds(4)), "when the first of them is tried again");
    assert_eq!(now(), start, "at once");
}

#[tokio::test(start_paused = true)]
async fn nobody_drives_it() {
    let resolver = ScriptedResolver::new();
    resolver.reset(["a:1"]);
    let (layer, driver) = DiscoveryLayer::new(&resolver, "users".parse().unwrap());
    let fleet = Fleet::new(["a:1"]);
    let service = layer.connect(move |endpoint: &EndpointHandle| fleet.connect(endpoint));
    let (error, took) = refusal(&service).await;
    assert_eq!(find::<NotDriven>(&*error).unwrap().service().as_str(), "users");
    assert_eq!(took, seconds(3), "it may yet be spawned");
    drop(driver);
    let (error, took) = refusal(&service).await;
    assert!(find::<NotDriven>(&*error).is_some() && took <= seconds(3));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_does_not_become_ready() {
    let resolver = ScriptedResolver::new();
    let (fleet, service) = service(&resolver);
    resolver.reset(["a:1", "b:1"]);
    settle().await;
    fleet.at("a:1").hold();
    fleet.at("b:1").hold();
    let (error, took) = refusal(&service).await;
    assert_eq!(find::<NotReady>(&*error).unwrap().waited(), seconds(3));
    assert_eq!(took, seconds(3));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_is_earlier_ends_the_wait() {
    let resolver = ScriptedResolver::new();
    let (_, service) = service(&resolver);
    let second = DeadlineConfig::builder().timeout(seconds(1)).build().unwrap();
    let start = now();
    let service = DeadlineLayer::new(second).layer(service);
    let error = service.oneshot(Query(0)).await.unwrap_err();
    assert!(find::<DeadlineExceeded>(&*error).is_some());
    assert_eq!(now().since(start), seconds(1));
}

#[tokio::test(start_paused = true)]
async fn the_bound_is_configurable() {
    let config = DiscoveryConfig::builder().ready_timeout(seconds(1)).build().unwrap();
    let (layer, _driver) =
        DiscoveryLayer::with_config(&ScriptedResolver::new(), "users".parse().unwrap(), config);
    let fleet = Fleet::new(["a:1"]);
    let service = layer.connect(move |endpoint: &EndpointHandle| fleet.connect(endpoint));
    assert_eq!(refusal(&service).await.1, seconds(1));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_later_leaves_the_last_good_set_in_use() {
    for end in [false, true] {
        let resolver = ScriptedResolver::new();
        let (_, service) = service(&resolver);
        resolver.reset(["a:1"]);
        if end {
            resolver.end();
        } else {
            resolver.fail("the registry");
        }
        settle().await;
        assert_eq!(service.status().state, DiscoveryState::Stale);
        tokio::time::advance(seconds(3600)).await;
        assert_eq!(service.clone().oneshot(Query(0)).await.unwrap(), "a:1");
    }
}
