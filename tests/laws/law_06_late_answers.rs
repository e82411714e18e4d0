//! Each admission carries the generation of the state that admitted it: what comes after that state is late, and moves nothing.

use std::future::pending;

use tokio::sync::oneshot;
use tower::{Layer, ServiceExt};
use tower_mesh_breaker::{BreakerConfig, BreakerLayer, State};
use tower_mesh_core::EndpointHandle;
use tower_mesh_core::classify::{ByResult, Origin, Outcome};
use tower_mesh_test::{Behaviour, Down, Fleet, Inner, Stepped};
use tower_mesh_tests::{Query, balance, breaker, circuit_of, ms, now, seconds, settle};

fn one_trial_call() -> BreakerLayer<ByResult> {
    BreakerLayer::new(BreakerConfig::builder().half_open_permits(1).build().unwrap(), ByResult)
}

/// The first call ends when the test says so; the second is the trial call and hangs.
fn first_on_cue() -> (oneshot::Sender<bool>, Inner<Query, u64>) {
    let (end, ended) = oneshot::channel();
    let ended = std::sync::Mutex::new(Some(ended));
    let inner = Inner::new(move |call, _: Query| {
        let ended = ended.lock().unwrap().take();
        async move {
            match ended {
                Some(ended) => {
                    if ended.await.unwrap_or(false) {
                        Ok(call)
                    } else {
                        Err(Down("inner".into()).into())
                    }
                }
                None => pending().await,
            }
        }
    });
    (end, inner)
}

#[tokio::test(start_paused = true)]
async fn a_call_from_before_the_trip_does_not_close_the_half_open_circuit() {
    let (breakers, (end, inner)) = (one_trial_call(), first_on_cue());
    let (service, circuit) = (breakers.layer(inner), breakers.circuit());
    let mut early = Stepped::new(service.clone().oneshot(Query(0)));
    assert!(early.poll().is_pending());
    circuit.trip(now());
    tokio::time::advance(seconds(5)).await;
    let mut trial = Stepped::new(service.clone().oneshot(Query(1)));
    assert!(trial.poll().is_pending());

    end.send(true).unwrap();
    assert!(early.poll().is_ready());
    assert_eq!((circuit.state(), circuit.snapshot(now()).late), (State::HalfOpen, 1));
    assert!(service.oneshot(Query(2)).await.is_err(), "and it frees no trial call: that one is still out");
}

#[tokio::test(start_paused = true)]
async fn nor_does_its_failure_open_it_again() {
    let (breakers, (end, inner)) = (one_trial_call(), first_on_cue());
    let (service, circuit) = (breakers.layer(inner), breakers.circuit());
    let mut early = Stepped::new(service.clone().oneshot(Query(0)));
    assert!(early.poll().is_pending());
    circuit.trip(now());
    tokio::time::advance(seconds(5)).await;
    let mut trial = Stepped::new(service.oneshot(Query(1)));
    assert!(trial.poll().is_pending());

    end.send(false).unwrap();
    assert!(early.poll().is_ready());
    assert_eq!(circuit.state(), State::HalfOpen);
    circuit.close(now());
    assert_eq!(circuit.snapshot(now()).counts.total, 0, "the closed window begins empty");
}

#[tokio::test(start_paused = true)]
async fn a_trial_call_of_one_half_open_state_says_nothing_in_the_next() {
    let circuit = one_trial_call().circuit().clone();
    circuit.trip(now());
    tokio::time::advance(seconds(5)).await;
    let first = circuit.acquire(now()).unwrap();
    // It is given up on, and after another wait the next is let in.
    tokio::time::advance(seconds(5)).await;
    assert!(circuit.acquire(now()).is_err());
    tokio::time::advance(seconds(10)).await;
    let second = circuit.acquire(now()).unwrap();
    first.finish(Outcome::Success, seconds(15), now());
    assert_eq!(circuit.state(), State::HalfOpen);
    assert!(circuit.acquire(now()).is_err(), "the second is still out");
    second.finish(Outcome::Failure(Origin::Remote), seconds(0), now());
    assert_eq!(circuit.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_call_from_before_the_trip_does_not_close_an_open_circuit() {
    let (breakers, (end, inner)) = (one_trial_call(), first_on_cue());
    let (service, circuit) = (breakers.layer(inner), breakers.circuit());
    let mut early = Stepped::new(service.oneshot(Query(0)));
    assert!(early.poll().is_pending());
    circuit.trip(now());
    end.send(true).unwrap();
    assert!(early.poll().is_ready());
    assert_eq!((circuit.state(), circuit.snapshot(now()).late), (State::Open, 1));
}

#[tokio::test(start_paused = true)]
async fn what_was_readied_before_the_trip_does_not_reach_the_inner_service_after_it() {
    let endpoint = EndpointHandle::new("a:1".parse().unwrap());
    let inner = Inner::new(|call, _: Query| async move { Ok(call) });
    for layer in [breaker(), breaker().watching(&endpoint)] {
        use tower::Service as _;
        let mut service = layer.layer(inner.clone());
        service.ready().await.unwrap();
        layer.circuit().trip(now());
        let answer = service.ready().await.map(|service| service.call(Query(0)));
        if let Ok(answer) = answer {
            assert!(answer.await.is_err());
        }
    }
    assert_eq!(inner.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_latency_from_before_the_recovery_is_not_taken_for_news() {
    let (fleet, breakers) = (Fleet::<Query>::new(["a:1"]), one_trial_call());
    let service = balance(&fleet, &breakers);
    settle().await;
    fleet.set("a:1", Behaviour::Slow(seconds(6)));
    let mut early = Stepped::new(service.clone().oneshot(Query(0)));
    assert!(early.poll().is_pending());
    circuit_of(&breakers, "a:1").trip(now());
    tokio::time::advance(seconds(5)).await;
    fleet.set("a:1", Behaviour::Healthy);
    assert!(service.clone().oneshot(Query(1)).await.is_ok());
    tokio::time::advance(ms(1001)).await;
    assert!(early.poll().is_ready());
    let of_a = service.status().endpoints[0].clone();
    let decay = tower_mesh_core::ewma::Decay::new(seconds(10));
    let latency = of_a.latency(now(), decay).unwrap_or_default();
    assert!(latency < ms(10), "{latency:?}: six seconds before the trip say nothing of now");
}
