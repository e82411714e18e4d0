//! Half-open ends: permits are at least one, they are leases, and the state can always be left.

use std::future::pending;

use tower::{Layer, ServiceExt};
use tower_mesh_breaker::{BreakerConfig, BreakerLayer, Circuit, State};
use tower_mesh_core::classify::{ByResult, Origin, Outcome};
use tower_mesh_test::{Inner, Stepped};
use tower_mesh_tests::{Query, now, seconds};

#[test]
fn there_is_at_least_one_permit() {
    let wrong = BreakerConfig::builder().half_open_permits(0).build().unwrap_err();
    assert_eq!(wrong.mistakes()[0].field(), "half_open_permits");
}

#[tokio::test(start_paused = true)]
async fn it_has_no_rate_before_all_trial_calls_are_back() {
    let config = BreakerConfig::builder().half_open_permits(2).build().unwrap();
    let circuit = BreakerLayer::new(config, ByResult).circuit().clone();
    circuit.trip(now());
    circuit.half_open(now());
    let failed = |circuit: &Circuit| {
        circuit.acquire(now()).unwrap().finish(Outcome::Failure(Origin::Remote), seconds(0), now());
    };
    failed(&circuit);
    assert_eq!((circuit.state(), circuit.snapshot(now()).failure_rate()), (State::HalfOpen, None));
    failed(&circuit);
    assert_eq!((circuit.state(), circuit.snapshot(now()).failure_rate()), (State::Open, Some(100.0)));
}

#[tokio::test(start_paused = true)]
async fn trial_calls_that_never_come_back_do_not_hold_it() {
    for permits in [1, 3] {
        let config = BreakerConfig::builder().half_open_permits(permits).build().unwrap();
        let breakers = BreakerLayer::new(config, ByResult);
        let hang = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let hangs = hang.clone();
        let inner = Inner::new(move |call, _: Query| {
            let hangs = hangs.load(std::sync::atomic::Ordering::Relaxed);
            async move { if hangs { pending().await } else { Ok(call) } }
        });
        let service = breakers.layer(inner);
        breakers.circuit().trip(now());
        tokio::time::advance(seconds(5)).await;
        let mut trials: Vec<_> =
            (0..permits).map(|n| Stepped::new(service.clone().oneshot(Query(n)))).collect();
        assert!(trials.iter_mut().all(|trial| trial.poll().is_pending()), "they are kept, never dropped");
        assert!(service.clone().oneshot(Query(9)).await.is_err());
        assert_eq!(breakers.circuit().state(), State::HalfOpen);

        hang.store(false, std::sync::atomic::Ordering::Relaxed);
        // It opens again when the trial has lasted as long as it was open, and is then tried anew.
        let mut closed_after = None;
        for second in 1..60_u32 {
            tokio::time::advance(seconds(1)).await;
            let _ = service.clone().oneshot(Query(second)).await;
            if breakers.circuit().state() == State::Closed {
                closed_after = Some(second);
                break;
            }
        }
        assert!(closed_after.is_some(), "{permits} permits: half-open for good");
        drop(trials);
        assert_eq!(breakers.circuit().state(), State::Closed, "what is late moves nothing");
    }
}
