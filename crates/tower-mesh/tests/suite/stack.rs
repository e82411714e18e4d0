//! Finished layers in any order.

use std::time::Duration;

use tower::{Service, ServiceExt as _, service_fn};
use tower_mesh::Stack;
use tower_mesh::breaker::{BreakerConfig, BreakerLayer, CircuitOpen, State};
use tower_mesh::core::classify::ByResult;
use tower_mesh::core::error::find;
use tower_mesh::core::replay::Idempotent;
use tower_mesh::core::{BoxError, EndpointHandle};
use tower_mesh::discovery::{DiscoveryLayer, FixedList, NoEndpoints};
use tower_mesh::health::{HealthConfig, HealthLayer};
use tower_mesh::http::{Authority, Classifier};
use tower_mesh::retry::{
    BudgetConfig, DeadlineConfig, DeadlineLayer, HedgeConfig, HedgeLayer, RetryBudget, RetryConfig,
    RetryLayer,
};

use crate::backend::{Backend, Mood, client, get};
use crate::inner::{Counting, Query, Rows, query, tasks};

fn breaker() -> BreakerLayer<ByResult> {
    BreakerLayer::new(BreakerConfig::builder().consecutive_failures(1).build().unwrap(), ByResult)
}

fn retry() -> RetryLayer<ByResult, Idempotent> {
    RetryLayer::new(RetryConfig::default(), ByResult).replay(Idempotent)
}

fn deadline() -> DeadlineLayer {
    DeadlineLayer::new(DeadlineConfig::builder().timeout(Duration::from_secs(9)).build().unwrap())
}

/// Endpoints whose name begins with `bad` fail.
fn connect(
    _: &(),
    endpoint: &EndpointHandle,
) -> impl Service<Query, Response = Rows, Error = BoxError, Future: Send> + Clone + use<> {
    let address = endpoint.endpoint().address().to_owned();
    service_fn(move |_: Query| {
        let address = address.clone();
        async move { if address.starts_with("bad") { Err(BoxError::from("failed")) } else { Ok(Rows(address)) } }
    })
}

#[tokio::test(start_paused = true)]
async fn whatever_the_order_they_are_given_in_they_stand_as_they_must() {
    let list = FixedList::new(["bad:1", "good:1"].map(|address| address.parse().unwrap())).unwrap();
    let discovery = || DiscoveryLayer::spawn(&list, "users".parse().unwrap()).bind(connect);
    let (first, second) = (breaker(), breaker());
    let one = Stack::builder()
        .deadline(deadline())
        .retry(retry())
        .discovery(discovery())
        .breaker(first.clone())
        .service(());
    let other = Stack::builder()
        .breaker(second.clone())
        .discovery(discovery())
        .retry(retry())
        .deadline(deadline())
        .service(());
    tasks().await;
    for (stack, breaker) in [
        (tower::util::BoxCloneSyncService::new(one), first),
        (tower::util::BoxCloneSyncService::new(other), second),
    ] {
        for _ in 0..50 {
            assert_eq!(
                stack.clone().oneshot(query("x")).await.unwrap(),
                Rows("good:1".into()),
                "retried elsewhere"
            );
        }
        let circuits = breaker.circuits();
        let of = |name: &str| {
            circuits.iter().find(|circuit| circuit.endpoint().unwrap().as_str() == name).unwrap()
        };
        assert_eq!((of("good:1").state(), circuits.len()), (State::Closed, 2));
        assert_ne!(of("bad:1").state(), State::Closed, "its own circuit, and the balancer keeps away");
    }
    list.set([]).unwrap();
    tasks().await;
    let alone = Stack::builder().discovery(discovery()).service(());
    tasks().await;
    let error = alone.oneshot(query("x")).await.unwrap_err();
    assert!(find::<NoEndpoints>(&*error).is_some());
}

#[tokio::test(start_paused = true)]
async fn without_discovery_the_circuit_stands_around_the_client() {
    let breaker = breaker();
    let failing = service_fn(|_: Query| async { Err::<Rows, _>(BoxError::from("failed")) });
    let stack = Stack::builder().breaker(breaker.clone()).deadline(deadline()).service(failing);
    stack.clone().oneshot(query("x")).await.unwrap_err();
    assert_eq!(breaker.circuit().state(), State::Open);
    let error = stack.oneshot(query("x")).await.unwrap_err();
    assert!(find::<CircuitOpen>(&*error).is_some());
}

#[tokio::test(start_paused = true)]
async fn health_is_told_of_every_endpoint_and_a_hedge_leaves_counting_to_the_retry() {
    let (probe, budget) = (Counting::default(), RetryBudget::new(BudgetConfig::default()));
    let (health, prober) = HealthLayer::new(HealthConfig::default(), probe.clone());
    tokio::spawn(prober);
    let list = FixedList::new(["a:1", "b:1", "c:1"].map(|address| address.parse().unwrap())).unwrap();
    let ratio = BudgetConfig::builder().ratio(1.0).min_per_second(0).build().unwrap();
    budget.reload(ratio).unwrap();
    let hedge = HedgeLayer::new(HedgeConfig::default(), ByResult).replay(Idempotent).budget(budget.clone());
    let stack = Stack::builder()
        .health(health)
        .hedge(hedge)
        .retry(retry().budget(budget.clone()))
        .discovery(DiscoveryLayer::spawn(&list, "users".parse().unwrap()).bind(connect))
        .service(());
    tasks().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(probe.counts().0 + probe.counts().1, 3, "each was checked once");
    for _ in 0..10 {
        stack.clone().oneshot(query("x")).await.unwrap();
    }
    let now = tower_mesh::core::Tick::of(tokio::time::Instant::now().into_std());
    assert_eq!(budget.snapshot(now).balance, 10, "each call was counted once");
}

#[tokio::test]
async fn over_http_it_takes_the_client_that_is_there_and_what_else_stands_around_an_endpoint() {
    let (down, well) = (Backend::start(Mood::Failing).await, Backend::start(Mood::Well).await);
    let list = FixedList::new([down.endpoint(), well.endpoint()]).unwrap();
    let classifier = Classifier::default();
    let discovery = DiscoveryLayer::spawn(&list, "users".parse().unwrap())
        .bind(Authority)
        .classify(classifier.clone())
        .per_endpoint(|_: &EndpointHandle| tower::limit::ConcurrencyLimitLayer::new(100));
    let users = Stack::builder()
        .discovery(discovery)
        .breaker(BreakerLayer::new(BreakerConfig::default(), classifier.clone()))
        .retry(RetryLayer::new(RetryConfig::default(), classifier))
        .deadline(deadline())
        .service(client());
    for _ in 0..20 {
        assert_eq!(users.clone().oneshot(get()).await.unwrap().status(), 200);
    }
    assert_eq!(well.gets(), 20);
    assert!(down.gets() >= 1);
}
