//! A limit that finds itself.

use tower::{Layer, ServiceExt};
use tower_mesh_admission::{AdmissionLayer, LimitAlgorithm, LimitConfig, LimitConfigBuilder};
use tower_mesh_core::classify::{self, ByResult, Origin, Retry, Verdict};
use tower_mesh_core::{BoxError, CallContext, DropReason};
use tower_mesh_test::{Inner, Stepped};

use crate::{ms, now, sleeper};

fn of(algorithm: LimitAlgorithm) -> LimitConfigBuilder {
    LimitConfig::builder().algorithm(algorithm).initial(20).min(1).max(40)
}

const ADAPTIVE: [LimitAlgorithm; 2] = [LimitAlgorithm::Aimd, LimitAlgorithm::Gradient];

#[tokio::test(start_paused = true)]
async fn it_grows_with_good_calls_that_use_it_and_only_with_those() {
    for algorithm in ADAPTIVE {
        let layer = AdmissionLayer::new(of(algorithm).build().unwrap(), ByResult);
        let service = layer.layer(sleeper());
        let limit = || layer.snapshot(now()).limit.unwrap().limit;
        for _ in 0..100 {
            service.clone().oneshot(10).await.unwrap();
        }
        assert_eq!(limit(), 20, "{algorithm:?}: one call at a time does not use it");
        for _ in 0..300 {
            let all: Vec<_> = (0..limit()).map(|_| tokio::spawn(service.clone().oneshot(10))).collect();
            for call in all {
                call.await.unwrap().unwrap();
            }
        }
        assert_eq!(limit(), 40, "{algorithm:?}: up to its bound");
    }
}

#[tokio::test(start_paused = true)]
async fn overload_answers_and_timeouts_lower_it_and_other_failures_do_not() {
    for algorithm in ADAPTIVE {
        for (what, lowers) in [("429", true), ("500", false), ("connect", true), ("timeout", true)] {
            let inner = Inner::new(|_, what: &'static str| async move {
                tokio::time::sleep(ms(if what == "timeout" { 1_000_000 } else { 1 })).await;
                Err::<(), _>(BoxError::from(what))
            });
            let judged = classify::by(|result: Result<&(), &(dyn std::error::Error + 'static)>| {
                let origin = match result {
                    Ok(()) => return Verdict::SUCCESS,
                    Err(error) if error.to_string() == "429" => Origin::Overload,
                    Err(error) if error.to_string() == "500" => Origin::Remote,
                    Err(_) => Origin::Local,
                };
                Verdict::failure(origin, Retry::Never)
            });
            let layer = AdmissionLayer::new(of(algorithm).build().unwrap(), judged);
            let service = layer.layer(inner);
            for _ in 0..10 {
                let mut call = Stepped::new(service.clone().oneshot(what));
                let mut context = CallContext::new();
                assert!(context.lend(|| call.poll()).is_pending());
                tokio::time::advance(ms(200)).await;
                if what == "timeout" {
                    context.drop_for(DropReason::AttemptTimeout, call);
                } else {
                    assert!(context.lend(|| call.poll()).is_ready());
                }
            }
            // One call at a time: AIMD is lowered by each that is dropped, gradient holds while less than half is used.
            let limit = layer.snapshot(now()).limit.unwrap().limit;
            let falls = lowers && algorithm == LimitAlgorithm::Aimd;
            assert_eq!(limit < 20, falls, "{algorithm:?} after {what}: {limit}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_drops_lowers_a_gradient_that_is_used_step_by_step_to_its_least() {
    let layer = AdmissionLayer::new(of(LimitAlgorithm::Gradient).build().unwrap(), ByResult);
    let service = layer.layer(Inner::new(|_, ()| async {
        tokio::time::sleep(ms(150)).await;
        Err::<(), _>(BoxError::from("connection refused"))
    }));
    let limit = || layer.snapshot(now()).limit.unwrap().limit;
    let mut before = limit();
    for _ in 0..60 {
        let all: Vec<_> = (0..limit()).map(|_| tokio::spawn(service.clone().oneshot(()))).collect();
        for call in all {
            assert!(call.await.unwrap().is_err());
        }
        assert!(limit() <= before && limit() + before.div_ceil(8) >= before, "{before} to {}", limit());
        before = limit();
    }
    assert!(limit() <= 8, "{}: four may queue at any limit", limit());
}
