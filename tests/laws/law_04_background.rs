//! Progress does not need requests. Constructors spawn nothing, and a driver ends with what it works for.

use tokio::task::JoinSet;
use tower::{Layer, ServiceExt};
use tower_mesh_core::EndpointHandle;
use tower_mesh_discovery::{DiscoveryLayer, DiscoveryState};
use tower_mesh_test::{Fleet, Inner, ScriptedResolver};
use tower_mesh_tests::{Query, breaker, deadline, retry, settle};

#[test]
fn layers_are_made_outside_a_runtime() {
    let inner = Inner::new(|call, _: Query| async move { Ok(call) });
    let (layer, _driver) = DiscoveryLayer::new(&ScriptedResolver::new(), "users".parse().unwrap());
    let endpoint = EndpointHandle::new("a:1".parse().unwrap());
    let _service = deadline().layer(retry().layer(layer.layer(breaker().layer(inner.clone()))));
    let _service = breaker().watching(&endpoint).layer(inner);
}

#[tokio::test(start_paused = true)]
async fn making_layers_starts_no_task() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let inner = Inner::new(|call, _: Query| async move { Ok(call) });
    let (layer, _driver) = DiscoveryLayer::new(&ScriptedResolver::new(), "users".parse().unwrap());
    let _service = deadline().layer(retry().layer(layer.layer(breaker().layer(inner))));
    assert_eq!(tasks(), 0);
    let _spawned = DiscoveryLayer::spawn(&ScriptedResolver::new(), "users".parse().unwrap());
    assert_eq!(tasks(), 1, "asked for by name");
}

#[tokio::test(start_paused = true)]
async fn what_discovery_says_is_known_without_a_single_call() {
    let resolver = ScriptedResolver::new();
    let layer = DiscoveryLayer::spawn(&resolver, "users".parse().unwrap());
    settle().await;
    assert_eq!(layer.status().state, DiscoveryState::Resolving);
    resolver.reset(["a:1", "b:1"]);
    settle().await;
    let status = layer.status();
    assert_eq!((status.state, status.endpoints.len()), (DiscoveryState::Current, 2));
    resolver.fail("the registry");
    settle().await;
    let status = layer.status();
    assert_eq!((status.state, status.endpoints.len()), (DiscoveryState::Stale, 2));
    assert!(status.last_error.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_driver_ends_with_the_last_clone_and_cancels_its_source() {
    let resolver = ScriptedResolver::new();
    resolver.reset(["a:1"]);
    let (layer, driver) = DiscoveryLayer::new(&resolver, "users".parse().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(driver);
    let fleet = Fleet::new(["a:1"]);
    let service = layer.clone().connect(move |endpoint: &EndpointHandle| fleet.connect(endpoint));
    let clone = service.clone();
    assert_eq!(clone.clone().oneshot(Query(0)).await.unwrap(), "a:1");

    drop(layer);
    drop(service);
    settle().await;
    assert!(tasks.try_join_next().is_none(), "a service is still there");
    assert_eq!(resolver.streams(), 1);
    drop(clone);
    settle().await;
    assert!(tasks.try_join_next().is_some_and(|ended| ended.is_ok()));
    assert_eq!(resolver.streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn so_does_one_whose_source_has_ended() {
    let resolver = ScriptedResolver::new();
    resolver.end();
    let (layer, driver) = DiscoveryLayer::new(&resolver, "users".parse().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(driver);
    settle().await;
    assert!(tasks.try_join_next().is_none(), "the end of the source is not the end of the service");
    drop(layer);
    settle().await;
    assert!(tasks.try_join_next().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_is_dropped_leaves_the_last_good_set_in_use() {
    let resolver = ScriptedResolver::new();
    resolver.reset(["a:1"]);
    let (layer, driver) = DiscoveryLayer::new(&resolver, "users".parse().unwrap());
    let fleet = Fleet::new(["a:1"]);
    let service = layer.connect(move |endpoint: &EndpointHandle| fleet.connect(endpoint));
    let mut tasks = JoinSet::new();
    tasks.spawn(driver);
    settle().await;
    tasks.shutdown().await;
    assert_eq!((service.status().state, resolver.streams()), (DiscoveryState::Stale, 0));
    assert_eq!(service.oneshot(Query(0)).await.unwrap(), "a:1");
}
