//! The rejected response is dropped before the backoff sleep. Sending again goes to another endpoint if there is one.

use std::sync::Arc;

use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_mesh_core::EndpointHandle;
use tower_mesh_core::classify::{self, Origin, Retry, Verdict};
use tower_mesh_core::error::find;
use tower_mesh_core::replay::Idempotent;
use tower_mesh_discovery::{DiscoveryLayer, FixedList, NoEndpoints};
use tower_mesh_retry::error::RetriesExhausted;
use tower_mesh_retry::{RetryConfig, RetryLayer};
use tower_mesh_test::{Behaviour, Down, Fleet, Inner, Stepped};
use tower_mesh_tests::{Query, balance, breaker, circuit_of, deadline, hedge, now, retry, seconds, settle};

#[tokio::test(start_paused = true)]
async fn what_was_rejected_is_gone_while_it_waits() {
    let rejected = Arc::new(());
    let held = rejected.clone();
    let inner = Inner::new(move |call, _: Query| {
        let response = (call, held.clone());
        async move { Ok(response) }
    });
    let inner = inner.with_permits(1);
    let classifier = classify::by(|result: Result<&(u64, Arc<()>), _>| match result {
        Ok((1, _)) => Verdict::failure(Origin::Remote, Retry::IfIdempotent),
        _ => Verdict::SUCCESS,
    });
    let retry = RetryLayer::new(RetryConfig::default(), classifier).replay(Idempotent);
    let mut call = Stepped::new(deadline().layer(retry.layer(inner.clone())).oneshot(Query(0)));
    assert!(call.poll().is_pending());
    assert_eq!(inner.calls(), 1);
    assert_eq!(Arc::strong_count(&rejected), 2, "the test's and the script's");
    assert_eq!(inner.permits_out(), 0, "nor is a permit held, nor taken for later");
}

#[tokio::test(start_paused = true)]
async fn another_attempt_goes_elsewhere() {
    for _ in 0..50 {
        let (fleet, breakers) = (Fleet::<Query>::new(["bad:1", "good:1"]), breaker());
        let service = retry().layer(balance(&fleet, &breakers));
        settle().await;
        fleet.set("bad:1", Behaviour::Failing);
        // Twice, so that latency learned from the first plays no part in where the second goes.
        for n in 0..2 {
            assert_eq!(service.clone().oneshot(Query(n)).await.unwrap(), "good:1");
        }
        assert!(fleet.at("bad:1").calls() <= 2, "at most once for each call");
    }
}

#[tokio::test(start_paused = true)]
async fn with_three_endpoints_three_attempts_try_each_once() {
    for _ in 0..20 {
        let addresses = ["a:1", "b:1", "c:1"];
        let (fleet, breakers) = (Fleet::<Query>::new(addresses), breaker());
        let service = retry().layer(balance(&fleet, &breakers));
        settle().await;
        for address in addresses {
            fleet.set(address, Behaviour::Failing);
        }
        let error = service.oneshot(Query(0)).await.unwrap_err();
        assert_eq!(find::<RetriesExhausted>(&*error).unwrap().attempts(), 3);
        assert!(find::<Down>(&*error).is_some(), "the last error is in the chain");
        assert_eq!(addresses.map(|address| fleet.at(address).calls()), [1, 1, 1]);
    }
}

#[tokio::test(start_paused = true)]
async fn when_a_priority_is_used_up_the_next_one_is_tried() {
    for _ in 0..20 {
        let fleet = Fleet::<Query>::new(["first:1", "first:2", "second:1"]);
        let endpoints = fleet.endpoints().into_iter().map(|endpoint| {
            let priority = u32::from(endpoint.address().starts_with("second"));
            endpoint.with_priority(priority)
        });
        let list = FixedList::new(endpoints).unwrap();
        let connect = {
            let fleet = fleet.clone();
            move |endpoint: &EndpointHandle| fleet.connect(endpoint)
        };
        let balance = DiscoveryLayer::spawn(&list, "fleet".parse().unwrap()).connect(connect);
        let service = retry().layer(balance);
        settle().await;
        for address in ["first:1", "first:2"] {
            fleet.set(address, Behaviour::Failing);
        }
        assert_eq!(service.oneshot(Query(0)).await.unwrap(), "second:1");
        assert_eq!(["first:1", "first:2"].map(|address| fleet.at(address).calls()), [1, 1]);
    }
}

#[tokio::test(start_paused = true)]
async fn without_another_it_goes_to_the_same() {
    let (fleet, breakers) = (Fleet::<Query>::new(["a:1"]), breaker());
    let service = retry().layer(balance(&fleet, &breakers));
    settle().await;
    fleet.set("a:1", Behaviour::Failing);
    assert!(service.oneshot(Query(0)).await.is_err());
    assert_eq!(fleet.at("a:1").calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_with_a_time_is_waited_out() {
    let (fleet, breakers) = (Fleet::<Query>::new(["a:1"]), breaker());
    let service = ServiceBuilder::new().layer(deadline()).layer(retry()).service(balance(&fleet, &breakers));
    settle().await;
    circuit_of(&breakers, "a:1").trip(now());
    let start = now();
    assert_eq!(service.oneshot(Query(0)).await.unwrap(), "a:1");
    assert!((seconds(5)..seconds(8)).contains(&now().since(start)), "not before the circuit may be tried");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_counts_in_nobodys_window() {
    let (fleet, breakers) = (Fleet::<Query>::new(["a:1"]), breaker());
    let service = ServiceBuilder::new().layer(deadline()).layer(retry()).service(balance(&fleet, &breakers));
    settle().await;
    let circuit = circuit_of(&breakers, "a:1");
    circuit.force_open(now());
    let error = service.oneshot(Query(0)).await.unwrap_err();
    assert_eq!(find::<RetriesExhausted>(&*error).unwrap().attempts(), 3);
    assert!(find::<NoEndpoints>(&*error).is_some());
    assert_eq!((fleet.at("a:1").calls(), circuit.snapshot(now()).counts.total), (0, 0));
    circuit.close(now());
    assert_eq!(circuit.snapshot(now()).counts.total, 0);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_goes_elsewhere_and_what_it_outruns_is_no_failure() {
    for _ in 0..20 {
        let (fleet, breakers) = (Fleet::<Query>::new(["slow:1", "good:1"]), breaker());
        let service = ServiceBuilder::new().layer(deadline()).layer(retry()).layer(hedge());
        let service = service.service(balance(&fleet, &breakers));
        settle().await;
        fleet.set("slow:1", Behaviour::Hanging);
        for n in 0..10 {
            assert_eq!(service.clone().oneshot(Query(n)).await.unwrap(), "good:1");
        }
        assert_eq!(circuit_of(&breakers, "slow:1").snapshot(now()).counts.total, 0);
        let lost = fleet.at("slow:1").dropped();
        assert!(lost.iter().all(|reason| *reason == tower_mesh_core::DropReason::HedgeLost), "{lost:?}");
        assert!(fleet.violations().is_empty());
    }
}
