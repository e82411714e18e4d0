//! Cancellation is an outcome: our own timeout is a failure, a lost hedge never is, and a caller's leaving counts by the time since the last progress.

use std::future::pending;
use std::time::Duration;

use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_mesh_breaker::{BreakerConfig, BreakerLayer, State};
use tower_mesh_core::classify::ByResult;
use tower_mesh_core::error::find;
use tower_mesh_core::replay::Idempotent;
use tower_mesh_core::{CallContext, DropReason, EndpointHandle};
use tower_mesh_retry::error::DeadlineExceeded;
use tower_mesh_retry::{DeadlineConfig, DeadlineLayer, RetryConfig, RetryLayer};
use tower_mesh_test::{Behaviour, Fleet, Inner, Stepped};
use tower_mesh_tests::{
    ALL, Body, Head, Query, Streams, balance, breaker, circuit_of, composed, deadline, ms, now, retry,
    seconds, settle,
};

fn hanging() -> Inner<Query, u64> {
    Inner::new(|_, _| pending())
}

fn within(timeout: Duration) -> DeadlineLayer {
    DeadlineLayer::new(DeadlineConfig::builder().timeout(timeout).build().unwrap())
}

fn attempts_of(timeout: Duration) -> RetryLayer<ByResult, Idempotent> {
    RetryLayer::new(RetryConfig::builder().attempt_timeout(timeout).build().unwrap(), ByResult)
        .replay(Idempotent)
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_is_told_through_every_layer() {
    for (name, wrap) in ALL {
        let inner = hanging();
        let service = wrap(&inner);
        settle().await;
        let mut call = Stepped::new(service.oneshot(Query(0)));
        assert!(call.poll().is_pending(), "{name}");
        drop(call);
        assert_eq!(inner.dropped(), [DropReason::CallerGone], "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_told_through_every_layer_within() {
    let inner = hanging();
    let layers = ServiceBuilder::new().layer(deadline());
    let breakers = breaker();
    let stacks = [
        tower_mesh_tests::Subject::new(layers.clone().service(inner.clone())),
        tower_mesh_tests::Subject::new(layers.clone().layer(retry()).service(inner.clone())),
        tower_mesh_tests::Subject::new(layers.layer(breaker()).service(inner.clone())),
        composed(&inner, &breakers),
    ];
    for (n, stack) in stacks.into_iter().enumerate() {
        let start = now();
        let error = stack.oneshot(Query(0)).await.unwrap_err();
        assert!(find::<DeadlineExceeded>(&*error).is_some());
        assert_eq!(now().since(start), seconds(10));
        assert_eq!(inner.dropped(), vec![DropReason::DeadlineExceeded; n + 1], "stack {n}");
    }
    let circuits = breakers.circuits();
    assert!(circuits.is_empty(), "the stack is gone, and its circuits with it");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_timeout_is_told_through_every_layer_within_and_counted() {
    let (fleet, breakers) = (Fleet::<Query>::new(["a:1"]), breaker());
    fleet.set("a:1", Behaviour::Hanging);
    let balance = balance(&fleet, &breakers);
    let service = attempts_of(ms(100)).layer(balance.clone());
    assert!(service.oneshot(Query(0)).await.is_err());
    assert_eq!(fleet.at("a:1").dropped(), [DropReason::AttemptTimeout; 3]);
    let counts = circuit_of(&breakers, "a:1").snapshot(now()).counts;
    assert_eq!(
        (counts.total, counts.failed),
        (3, 3),
        "although 100 ms are no long time for a caller to leave after"
    );
    let counts = balance.status().endpoints[0].counts();
    assert_eq!((counts.started, counts.abandoned, counts.in_flight()), (3, 3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_hung_backend_trips_its_circuit_by_deadlines_alone() {
    let (inner, breakers) = (hanging(), breaker());
    let service = within(ms(100)).layer(breakers.layer(inner.clone()));
    for n in 0..5 {
        assert_eq!(breakers.circuit().state(), State::Closed);
        assert!(service.clone().oneshot(Query(n)).await.is_err());
    }
    assert_eq!(breakers.circuit().state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_hung_backend_trips_its_circuit_by_callers_that_give_up() {
    let (inner, breakers) = (hanging(), breaker());
    let service = breakers.layer(inner.clone());
    for n in 0..5 {
        assert_eq!(breakers.circuit().state(), State::Closed);
        let given_up = tokio::time::timeout(seconds(1), service.clone().oneshot(Query(n))).await;
        assert!(given_up.is_err());
    }
    assert_eq!(breakers.circuit().state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn callers_that_leave_early_say_nothing_of_the_backend() {
    let (inner, breakers) = (hanging(), breaker());
    let service = breakers.layer(inner.clone());
    for n in 0..50 {
        assert!(tokio::time::timeout(ms(100), service.clone().oneshot(Query(n))).await.is_err());
    }
    assert_eq!(breakers.circuit().snapshot(now()).counts.total, 0);
}

#[tokio::test(start_paused = true)]
async fn a_lost_hedge_is_no_failure_however_long_it_took() {
    let (inner, breakers) = (hanging(), breaker());
    let mut service = breakers.layer(inner.clone());
    let mut call = CallContext::new();
    let attempt = {
        service.ready().await.unwrap();
        call.lend(|| service.call(Query(0)))
    };
    tokio::time::advance(seconds(60)).await;
    call.drop_for(DropReason::HedgeLost, attempt);
    assert_eq!(inner.dropped(), [DropReason::HedgeLost]);
    assert_eq!(breakers.circuit().snapshot(now()).counts.total, 0);
}

#[tokio::test(start_paused = true)]
async fn a_trial_call_that_is_abandoned_makes_room_for_another() {
    let config = BreakerConfig::builder().half_open_permits(1).build().unwrap();
    let (inner, breakers) = (hanging(), BreakerLayer::new(config, ByResult));
    let service = breakers.layer(inner.clone());
    breakers.circuit().trip(now());
    tokio::time::advance(seconds(5)).await;
    for n in 0..10 {
        let mut trial = Stepped::new(service.clone().oneshot(Query(n)));
        assert!(trial.poll().is_pending());
        assert!(service.clone().oneshot(Query(n)).await.is_err(), "one at a time");
    }
    assert_eq!((breakers.circuit().state(), inner.calls()), (State::HalfOpen, 10));
}

/// A call through a breaker whose response is a stream.
async fn stream(breakers: &BreakerLayer<Streams>) -> impl Body {
    let inner = Inner::new(|_, _: Query| async { Ok(Head) });
    breakers.layer(inner).oneshot(Query(0)).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_long_stream_that_its_reader_closes_is_no_failure_and_a_silent_one_is() {
    let breakers = BreakerLayer::new(BreakerConfig::default(), Streams);
    let failed = || breakers.circuit().snapshot(now()).counts.failed;

    let mut busy = stream(&breakers).await;
    for _ in 0..60 {
        tokio::time::advance(seconds(1)).await;
        busy.piece();
    }
    drop(busy);
    assert_eq!(failed(), 0);

    let mut silent = stream(&breakers).await;
    silent.piece();
    tokio::time::advance(seconds(1)).await;
    drop(silent);
    assert_eq!(failed(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_call_leaves_no_count_behind() {
    let fleet = Fleet::<Query>::new(["a:1"]);
    let service = balance(&fleet, &breaker());
    settle().await;
    fleet.set("a:1", Behaviour::Hanging);
    let mut calls: Vec<_> = (0..10).map(|n| Stepped::new(service.clone().oneshot(Query(n)))).collect();
    assert!(calls.iter_mut().all(|call| call.poll().is_pending()));
    let of_a: EndpointHandle = service.status().endpoints[0].clone();
    assert_eq!(of_a.counts().in_flight(), 10);
    drop(calls);
    assert_eq!((of_a.counts().in_flight(), of_a.counts().abandoned), (0, 10));
}
