//! Bounded everything: endpoints are, and state keyed by an endpoint goes with it.

use tower::ServiceExt;
use tower_mesh_core::{EndpointHandle, Update};
use tower_mesh_discovery::{DiscoveryConfig, DiscoveryLayer};
use tower_mesh_test::{Fleet, ScriptedResolver, Stepped};
use tower_mesh_tests::{Query, breaker, settle};

#[tokio::test(start_paused = true)]
async fn circuits_go_with_their_endpoints() {
    let (resolver, breakers) = (ScriptedResolver::new(), breaker());
    let addresses: Vec<_> = (0..1000).map(|i| format!("e{i}:1")).collect();
    let fleet = Fleet::<Query>::new(addresses.iter().map(String::as_str));
    let (connect, watching) = (fleet.clone(), breakers.clone());
    let service = DiscoveryLayer::spawn(&resolver, "users".parse().unwrap())
        .per_endpoint(move |endpoint: &EndpointHandle| watching.watching(endpoint))
        .connect(move |endpoint: &EndpointHandle| connect.connect(endpoint));
    for ten in addresses.chunks(10) {
        resolver.reset(ten.iter().map(String::as_str));
        settle().await;
        assert!(service.clone().oneshot(Query(0)).await.is_ok());
    }
    assert_eq!(breakers.circuits().len(), 10);
    resolver.send(Update::NotFound);
    settle().await;
    assert_eq!(breakers.circuits().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_gone_lives_no_longer_than_its_last_call() {
    let (resolver, breakers, fleet) =
        (ScriptedResolver::new(), breaker(), Fleet::<Query>::new(["a:1", "b:1"]));
    let (connect, watching) = (fleet.clone(), breakers.clone());
    let service = DiscoveryLayer::spawn(&resolver, "users".parse().unwrap())
        .per_endpoint(move |endpoint: &EndpointHandle| watching.watching(endpoint))
        .connect(move |endpoint: &EndpointHandle| connect.connect(endpoint));
    resolver.reset(["a:1"]);
    settle().await;
    fleet.set("a:1", tower_mesh_test::Behaviour::Hanging);
    let mut last = Stepped::new(service.clone().oneshot(Query(0)));
    assert!(last.poll().is_pending());
    resolver.reset(["b:1"]);
    settle().await;
    assert_eq!(breakers.circuits().len(), 2, "its last call is still told to it");
    drop(last);
    assert_eq!(breakers.circuits().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_source_cannot_announce_without_bound() {
    let resolver = ScriptedResolver::new();
    let config = DiscoveryConfig::builder().max_endpoints(5).build().unwrap();
    let (layer, driver) = DiscoveryLayer::with_config(&resolver, "users".parse().unwrap(), config);
    let mut driver = Stepped::new(driver);
    let many: Vec<_> = (0..100).map(|i| format!("e{i}:1")).collect();
    resolver.reset(many.iter().map(String::as_str));
    resolver.send(Update::Upsert(many.iter().map(|address| address.parse().unwrap()).collect()));
    assert!(driver.poll().is_pending());
    assert_eq!(layer.status().endpoints.len(), 5);
}
