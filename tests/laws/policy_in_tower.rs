//! The retry policy in tower's own middleware decides as our layer does.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tower::retry::RetryLayer as TowersRetryLayer;
use tower::{Layer, Service, ServiceExt};
use tower_mesh_core::backoff::Jitter;
use tower_mesh_core::classify::{self, ByResult, Origin, Retry, Verdict};
use tower_mesh_core::replay::{Idempotent, NotIdempotent, Once};
use tower_mesh_core::{BoxError, CallContext};
use tower_mesh_retry::{
    BudgetConfig, DeadlineConfig, DeadlineLayer, RetryBudget, RetryConfig, RetryConfigBuilder, RetryLayer,
    TowerPolicy,
};
use tower_mesh_test::{Behaviour, Fleet, Inner};
use tower_mesh_tests::{Query, balance, breaker, now, seconds, settle};

fn exact() -> RetryConfigBuilder {
    RetryConfig::builder().jitter(Jitter::None)
}

fn policy(config: RetryConfigBuilder) -> TowerPolicy<ByResult, Idempotent> {
    TowerPolicy::new(config.build().unwrap(), ByResult).replay(Idempotent)
}

fn failing_until(good: u64) -> Inner<Query, u64> {
    Inner::new(move |call, _: Query| async move {
        if call < good { Err(BoxError::from("down")) } else { Ok(call) }
    })
}

fn waits(inner: &Inner<Query, u64>) -> Vec<Duration> {
    inner.called_at().windows(2).map(|pair| pair[1].since(pair[0])).collect()
}

#[tokio::test(start_paused = true)]
async fn it_waits_and_stops_as_the_layer_does() {
    for good in 1..6 {
        let (theirs, ours) = (failing_until(good), failing_until(good));
        let by_tower = TowersRetryLayer::new(policy(exact().max_attempts(4))).layer(theirs.clone());
        let layer = RetryLayer::new(exact().max_attempts(4).build().unwrap(), ByResult).replay(Idempotent);
        let (answer, expected) =
            (by_tower.oneshot(Query(0)).await, layer.layer(ours.clone()).oneshot(Query(0)).await);
        assert_eq!(answer.ok(), expected.ok(), "{good}");
        assert_eq!((theirs.calls(), waits(&theirs)), (ours.calls(), waits(&ours)), "{good}");
        assert!(theirs.violations().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn calls_of_one_service_know_nothing_of_each_other() {
    let inner = failing_until(u64::MAX);
    let mut service = TowersRetryLayer::new(policy(exact())).layer(inner.clone());
    for calls in [3, 6, 9] {
        assert!(service.ready().await.unwrap().call(Query(0)).await.is_err());
        assert_eq!(inner.calls(), calls);
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_do_harm_or_cannot_be_copied_is_sent_once() {
    let inner = failing_until(u64::MAX);
    assert!(
        TowersRetryLayer::new(policy(exact()).replay(NotIdempotent))
            .layer(inner.clone())
            .oneshot(Query(0))
            .await
            .is_err()
    );
    assert!(
        TowersRetryLayer::new(policy(exact()).replay(Once))
            .layer(inner.clone())
            .oneshot(Query(0))
            .await
            .is_err()
    );
    assert_eq!(inner.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_budget_counts_calls_and_holds_a_retry_until_its_attempt_has_ended() {
    let config = BudgetConfig::builder().ratio(0.5).min_per_second(0).min_concurrency(0).build().unwrap();
    let budget = RetryBudget::new(config);
    let inner = failing_until(u64::MAX);
    let service = TowersRetryLayer::new(policy(exact()).budget(budget.clone())).layer(inner.clone());
    for _ in 0..10 {
        assert!(service.clone().oneshot(Query(0)).await.is_err());
    }
    assert_eq!((inner.calls(), budget.snapshot(now()).in_flight), (15, 0));
    let denied = budget.snapshot(now());
    assert_eq!((denied.granted, denied.balance), (5, 0));

    let most = Arc::new(Mutex::new(0));
    let (seen, seeing) = (most.clone(), budget.clone());
    let inner = Inner::<Query, u64>::new(move |_, _| {
        let mut most = seen.lock().unwrap();
        *most = seeing.snapshot(now()).in_flight.max(*most);
        async { Err(BoxError::from("down")) }
    });
    let service = TowersRetryLayer::new(policy(exact()).budget(budget)).layer(inner);
    for _ in 0..4 {
        assert!(service.clone().oneshot(Query(0)).await.is_err());
    }
    assert_eq!(*most.lock().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn it_keeps_the_deadline_and_the_servers_wish() {
    let within = DeadlineLayer::new(DeadlineConfig::builder().timeout(seconds(2)).build().unwrap());
    let inner = failing_until(u64::MAX);
    let start = now();
    let service = within.layer(TowersRetryLayer::new(policy(exact())).layer(inner.clone()));
    assert_eq!(service.oneshot(Query(0)).await.unwrap_err().to_string(), "down");
    assert_eq!((now().since(start), inner.calls()), (seconds(1), 2), "two more seconds would not fit");

    let asked = classify::by(|_: Result<&u64, _>| {
        Verdict::failure(Origin::Overload, Retry::IfIdempotent).with_wait(Some(seconds(7)))
    });
    let inner = failing_until(2);
    let policy = TowerPolicy::new(exact().max_attempts(2).build().unwrap(), asked).replay(Idempotent);
    assert_eq!(TowersRetryLayer::new(policy).layer(inner.clone()).oneshot(Query(0)).await.unwrap(), 2);
    assert!((seconds(7)..seconds(11)).contains(&waits(&inner)[0]));
}

#[tokio::test(start_paused = true)]
async fn under_a_deadline_another_attempt_goes_elsewhere() {
    for _ in 0..20 {
        let (fleet, breakers) = (Fleet::<Query>::new(["bad:1", "good:1"]), breaker());
        let within = DeadlineLayer::new(DeadlineConfig::default());
        let service = within.layer(TowersRetryLayer::new(policy(exact())).layer(balance(&fleet, &breakers)));
        settle().await;
        fleet.set("bad:1", Behaviour::Failing);
        assert_eq!(service.oneshot(Query(0)).await.unwrap(), "good:1");
    }
}

#[tokio::test(start_paused = true)]
async fn each_attempt_has_a_clock_reading_of_its_own() {
    let within = DeadlineLayer::new(DeadlineConfig::default());
    let started = Arc::new(Mutex::new(Vec::new()));
    let seen = started.clone();
    let service = tower::service_fn(move |_: Query| {
        seen.lock().unwrap().push(CallContext::attempt_started(now));
        async { Err::<u64, _>(BoxError::from("down")) }
    });
    let service = within.layer(TowersRetryLayer::new(policy(exact())).layer(service));
    assert!(service.oneshot(Query(0)).await.is_err());
    let started = started.lock().unwrap();
    let waits: Vec<_> = started.windows(2).map(|pair| pair[1].since(pair[0])).collect();
    assert_eq!(waits, [seconds(1), seconds(2)]);
}
