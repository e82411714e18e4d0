//! The same scenarios on tower's own middleware, where it has the same thing: what it does otherwise, and so why these layers are not built on it.

use std::task::Poll;

use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::limit::ConcurrencyLimitLayer;
use tower::load::{CompleteOnResponse, Constant, PeakEwma};
use tower::retry::budget::{Budget, TpsBudget};
use tower::timeout::TimeoutLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_mesh_breaker::State;
use tower_mesh_core::DropReason;
use tower_mesh_core::error::find;
use tower_mesh_discovery::NoEndpoints;
use tower_mesh_retry::{BudgetConfig, DeadlineConfig, DeadlineLayer, RetryBudget};
use tower_mesh_test::{Behaviour, Fleet, Inner, Stepped};
use tower_mesh_tests::{Head, Query, balance, breaker, ms, now, seconds, settle};

/// Theirs takes the endpoint out for good and never answers; ours answers at once and asks it again for the next call.
#[tokio::test(start_paused = true)]
async fn one_readiness_error() {
    let fleet = Fleet::<Query>::new(["a:1"]);
    fleet.at("a:1").fail_readiness();
    let services = vec![Constant::new(fleet.at("a:1").clone(), 0)];
    let mut theirs = Balance::new(ServiceList::new::<Query>(services));
    let mut waiting =
        Stepped::new(std::future::poll_fn(move |cx| Service::<Query>::poll_ready(&mut theirs, cx)));
    assert!(waiting.poll().is_pending());
    fleet.at("a:1").release();
    tokio::time::advance(seconds(3600)).await;
    assert_eq!(waiting.wakes(), 0);
    assert!(waiting.poll().is_pending(), "the endpoint is well again, and forgotten");

    let ours = balance(&fleet, &breaker());
    settle().await;
    fleet.at("a:1").fail_readiness();
    let error = ours.clone().oneshot(Query(0)).await.unwrap_err();
    assert!(find::<NoEndpoints>(&*error).is_some());
    fleet.at("a:1").release();
    assert_eq!(ours.oneshot(Query(0)).await.unwrap(), "a:1");
}

/// Theirs takes a fast error for a fast endpoint; ours does not.
#[tokio::test(start_paused = true)]
async fn one_endpoint_fails_at_once() {
    let behave = |fleet: &Fleet<Query>| {
        fleet.set("bad:1", Behaviour::Failing);
        fleet.set("good:1", Behaviour::Slow(ms(50)));
    };
    let fleet = Fleet::<Query>::new(["bad:1", "good:1"]);
    behave(&fleet);
    let measured = ["bad:1", "good:1"].map(|address| {
        let tau = seconds(10).as_nanos() as f64;
        PeakEwma::new(fleet.at(address).clone(), ms(50), tau, CompleteOnResponse::default())
    });
    let mut theirs = Balance::new(ServiceList::new::<Query>(measured));
    for n in 0..200 {
        let _ = theirs.ready().await.unwrap().call(Query(n)).await;
    }
    let sent = fleet.at("bad:1").calls();
    assert!(sent > 150, "{sent} of 200 to the one that fails");

    let fleet = Fleet::<Query>::new(["bad:1", "good:1"]);
    let ours = balance(&fleet, &breaker());
    settle().await;
    behave(&fleet);
    for n in 0..200 {
        let _ = ours.clone().oneshot(Query(n)).await;
    }
    let sent = fleet.at("bad:1").calls();
    assert!(sent < 5, "{sent} of 200 to the one that fails");
}

/// Theirs drops the call without saying why, so a breaker within takes it for a caller's leaving; ours says.
#[tokio::test(start_paused = true)]
async fn a_hung_backend_behind_a_short_timeout() {
    let hanging = || Inner::<Query, u64>::new(|_, _| std::future::pending());

    let (inner, breakers) = (hanging(), breaker());
    let theirs = TimeoutLayer::new(ms(100)).layer(breakers.layer(inner.clone()));
    for n in 0..50 {
        assert!(theirs.clone().oneshot(Query(n)).await.is_err());
    }
    assert_eq!(
        (breakers.circuit().state(), inner.dropped()),
        (State::Closed, vec![DropReason::CallerGone; 50])
    );

    let (inner, breakers) = (hanging(), breaker());
    let config = DeadlineConfig::builder().timeout(ms(100)).build().unwrap();
    let ours = DeadlineLayer::new(config).layer(breakers.layer(inner.clone()));
    for n in 0..50 {
        assert!(ours.clone().oneshot(Query(n)).await.is_err());
    }
    assert_eq!(
        (breakers.circuit().state(), inner.dropped()),
        (State::Open, vec![DropReason::DeadlineExceeded; 5])
    );
}

/// Their timeout covers the call only: who waits for readiness waits for ever. Our balancer bounds it.
#[tokio::test(start_paused = true)]
async fn an_inner_service_that_does_not_become_ready() {
    let fleet = Fleet::<Query>::new(["a:1"]);
    let ours = balance(&fleet, &breaker());
    settle().await;
    fleet.at("a:1").hold();

    let theirs = TimeoutLayer::new(seconds(1)).layer(fleet.at("a:1").clone());
    let mut waiting = Stepped::new(theirs.oneshot(Query(0)));
    assert!(waiting.poll().is_pending());
    tokio::time::advance(seconds(3600)).await;
    assert_eq!(waiting.wakes(), 0);

    let start = now();
    let answer = tokio::time::timeout(seconds(60), ours.oneshot(Query(0))).await;
    assert!(answer.expect("a call waits for ever").is_err());
    assert_eq!(now().since(start), seconds(3));
}

/// Their limit lets the next call in when the head is there; our counts last until the body has ended (see `law_10_body_end`).
#[tokio::test(start_paused = true)]
async fn a_permit_while_the_body_streams() {
    let inner = Inner::new(|_, _: Query| async { Ok(Head) });
    let mut theirs = ServiceBuilder::new().layer(ConcurrencyLimitLayer::new(1)).service(inner);
    let _streaming = theirs.ready().await.unwrap().call(Query(0)).await.unwrap();
    let mut next = Stepped::new(theirs.ready());
    assert!(matches!(next.poll(), Poll::Ready(Ok(_))), "one body streams, and another call is let in");
}

/// Theirs truncates what a retry costs, so that 60 % is every call; ours counts in whole units.
#[tokio::test(start_paused = true)]
async fn a_budget_of_sixty_percent() {
    let theirs = TpsBudget::new(seconds(10), 0, 0.6);
    (0..10).for_each(|_| theirs.deposit());
    assert_eq!((0..10).filter(|_| theirs.withdraw()).count(), 10);

    let config = BudgetConfig::builder().ratio(0.6).min_per_second(0).min_concurrency(0).build().unwrap();
    let ours = RetryBudget::new(config);
    (0..10).for_each(|_| ours.deposit(now()));
    assert_eq!((0..10).filter(|_| ours.withdraw(now()).is_some()).count(), 6);
}
