//! Finished layers in any order.

use std::time::Duration;

use tower::{Service, ServiceExt as _, service_fn};
use tower_mesh::Stack;
use tower_mesh::admission::{AdmissionLayer, LimitAlgorithm, LimitConfig, Overloaded};
use tower_mesh::breaker::{BreakerConfig, BreakerLayer, CircuitOpen, State};
use tower_mesh::core::backoff::Jitter;
use tower_mesh::core::classify::ByResult;
use tower_mesh::core::error::find;
use tower_mesh::core::replay::Idempotent;
use tower_mesh::core::{BoxError, EndpointHandle};
use tower_mesh::discovery::{DiscoveryLayer, FixedList, NoEndpoints};
use tower_mesh::health::{HealthConfig, HealthLayer};
use tower_mesh::http::{Authority, Classifier};
use tower_mesh::retry::error::{DeadlineExceeded, RetriesExhausted};
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
    // One call at a time.
    let admission = AdmissionLayer::new(LimitConfig::fixed(1).unwrap(), ByResult);
    let one = Stack::builder()
        .deadline(deadline())
        .retry(retry())
        .admission(admission.clone())
        .discovery(discovery())
        .breaker(first.clone())
        .service(());
    let other = Stack::builder()
        .breaker(second.clone())
        .discovery(discovery())
        .admission(admission.clone())
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
    let now = tower_mesh::core::Tick::of(tokio::time::Instant::now().into_std());
    let limit = admission.snapshot(now).limit.unwrap();
    assert_eq!((limit.in_flight, limit.refused.total()), (0, 0));
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
async fn admission_stands_outside_of_retry_and_inside_the_deadline() {
    let client = service_fn(|query: Query| async move {
        if query.0 == "hang" {
            std::future::pending().await
        } else {
            Err::<Rows, _>(BoxError::from("failed"))
        }
    });
    let queue = LimitConfig::builder().algorithm(LimitAlgorithm::Fixed).initial(1).max_waiting(1);
    let queue = queue.max_wait(Duration::from_secs(60)).build().unwrap();
    let waits = RetryConfig::builder().jitter(Jitter::None).build().unwrap();
    let timeout = DeadlineConfig::builder().timeout(Duration::from_secs(4)).build().unwrap();
    let stack = Stack::builder()
        .retry(RetryLayer::new(waits, ByResult).replay(Idempotent))
        .admission(AdmissionLayer::new(queue, ByResult))
        .deadline(DeadlineLayer::new(timeout))
        .service(client);
    let stack = tower::util::BoxCloneSyncService::new(stack);
    let began = tokio::time::Instant::now();
    let first = tokio::spawn(stack.clone().oneshot(query("fail")));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let second = tokio::spawn(stack.clone().oneshot(query("hang")));
    tasks().await;
    let error = stack.oneshot(query("fail")).await.unwrap_err();
    assert!(find::<Overloaded>(&*error).is_some(), "between two attempts the place is held");
    let error = first.await.unwrap().unwrap_err();
    assert!(find::<RetriesExhausted>(&*error).is_some());
    assert_eq!(began.elapsed(), Duration::from_secs(3));
    let error = second.await.unwrap().unwrap_err();
    assert!(find::<DeadlineExceeded>(&*error).is_some());
    let waited = began.elapsed() - Duration::from_millis(500);
    assert_eq!(waited, Duration::from_secs(4), "the time that it waited for a place is part of its four");
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
