//! One circuit under many threads.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use tokio_test::{assert_ready, task};
use tower_layer::Layer;
use tower_mesh_breaker::{Breaker, BreakerConfig, BreakerLayer, Circuit, State, WindowKind};
use tower_mesh_core::classify::{ByResult, Outcome, judge};
use tower_mesh_core::{CallEnd, EndpointHandle};
use tower_service::Service;

use crate::inner::{Ask, Inner, now};

const THREADS: u64 = 4;
const CALLS: u64 = 300;

#[test]
fn exactly_the_permitted_number_of_trials_is_out_whoever_asks() {
    for permits in [1, 3, 7] {
        let config = BreakerConfig::builder().half_open_permits(permits).build().unwrap();
        let start = now();
        let circuit = Circuit::new(config, start);
        circuit.trip(start);
        let due = start + Duration::from_secs(5);
        let barrier = Barrier::new(16);
        let mut out: Vec<_> = thread::scope(|scope| {
            let ask = || {
                barrier.wait();
                circuit.acquire(due).ok()
            };
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(out.len(), permits as usize);
        assert_eq!(circuit.snapshot(due).generation, 2, "it became half-open once");
        assert_eq!(circuit.snapshot(due).refused, 16 - u64::from(permits));
        // One is dropped and so made again, the others work.
        drop(out.pop());
        out.push(circuit.acquire(due).unwrap());
        for permit in out {
            assert_eq!(circuit.state(), State::HalfOpen);
            permit.finish(Outcome::Success, Duration::ZERO, due);
        }
        assert_eq!(circuit.state(), State::Closed);
    }
}

/// Whatever happens to calls, each that was admitted ends in one way, each that was refused is counted as that, and no lease is lost.
#[test]
fn nothing_is_lost_and_nothing_counted_twice() {
    for round in 0..20 {
        let inner = Inner::default();
        let endpoint = EndpointHandle::new("a:1".parse().unwrap());
        let config = BreakerConfig::builder()
            .window(WindowKind::Calls(20))
            .min_calls(5)
            .half_open_permits(2)
            .build()
            .unwrap();
        let layer = BreakerLayer::new(config, ByResult).watching(&endpoint);
        let refused = AtomicU64::new(0);
        thread::scope(|scope| {
            for seed in 0..THREADS {
                let (service, endpoint, refused) = (layer.layer(inner.clone()), &endpoint, &refused);
                let random = fastrand::Rng::with_seed(round * THREADS + seed);
                scope.spawn(move || drive(&service, endpoint, refused, random));
            }
        });
        let counts = endpoint.counts();
        assert_eq!(counts.started, inner.called(), "each that was admitted was made once");
        assert_eq!(counts.succeeded + counts.failed + counts.ignored + counts.abandoned, counts.started);
        assert!(counts.succeeded > 0 && counts.failed > 0 && counts.abandoned > 0);
        let (circuit, now) = (layer.circuit(), now());
        assert_eq!(circuit.snapshot(now).refused, refused.load(Ordering::Relaxed));
        assert!(circuit.snapshot(now).generation > 2, "it moved");

        // All leases are back: half-open, or made so, it closes with as many good calls as it wants at most.
        if circuit.state() == State::Closed {
            circuit.trip(now);
        }
        circuit.half_open(now);
        for _ in 0..2 {
            if circuit.state() == State::HalfOpen {
                circuit.acquire(now).unwrap().finish(Outcome::Success, Duration::ZERO, now);
            }
        }
        assert_ne!(circuit.state(), State::HalfOpen);
    }
}

/// Makes calls with every kind of end, and lets trial calls in now and then. It counts as a balancer does.
fn drive(
    service: &Breaker<Inner, ByResult>,
    endpoint: &EndpointHandle,
    refused: &AtomicU64,
    mut random: fastrand::Rng,
) {
    for _ in 0..CALLS {
        let mut service = task::spawn(service.clone());
        let ready = service.enter(|cx, mut service| service.poll_ready(cx));
        if assert_ready!(ready).is_err() {
            refused.fetch_add(1, Ordering::Relaxed);
            if random.bool() {
                service.circuit().half_open(now());
            }
            continue;
        }
        let pick = random.u32(0..8);
        if pick == 0 {
            continue; // Readied and not called.
        }
        endpoint.started();
        let ask = match pick {
            1 => Ask::Hang,
            2..=4 => Ask::Fail,
            _ => Ask::Succeed,
        };
        let mut future = task::spawn(service.call(ask));
        let end = match future.poll() {
            Poll::Ready(result) => {
                CallEnd::Answered(judge(&ByResult, result.as_ref().map_err(|error| &**error)).outcome)
            }
            Poll::Pending => CallEnd::Abandoned,
        };
        drop(future);
        endpoint.finished(end);
    }
}

/// On all cores, with calls of every end: what was admitted is what ended, and the window holds all that said something and nothing else.
#[test]
fn admitted_is_succeeded_and_failed_and_ignored_and_abandoned() {
    let threads = thread::available_parallelism().map_or(4, |cores| cores.get().max(4));
    let config =
        BreakerConfig::builder().window(WindowKind::Time(Duration::from_secs(3600))).build().unwrap();
    let circuit = Circuit::new(config, now());
    circuit.metrics_only(now());
    let count = || AtomicU64::new(0);
    let (admitted, succeeded, failed, ignored, abandoned) = (count(), count(), count(), count(), count());
    let (layer, refused) = (BreakerLayer::around(circuit.clone(), ByResult), AtomicU64::new(0));
    let add = |counter: &AtomicU64| {
        counter.fetch_add(1, Ordering::Relaxed);
    };
    thread::scope(|scope| {
        for seed in 0..threads as u64 {
            let (layer, inner) = (&layer, Inner::default());
            let counters = (&admitted, &succeeded, &failed, &ignored, &abandoned, &refused);
            scope.spawn(move || {
                let (admitted, succeeded, failed, ignored, abandoned, refused) = counters;
                let mut random = fastrand::Rng::with_seed(seed);
                for _ in 0..5000 {
                    if random.u32(0..4) == 0 {
                        // By hand, with an end that says nothing.
                        match layer.circuit().acquire(now()) {
                            Ok(permit) => {
                                add(admitted);
                                add(ignored);
                                permit.finish(Outcome::Ignored, Duration::ZERO, now());
                            }
                            Err(_) => add(refused),
                        }
                        continue;
                    }
                    let mut service = task::spawn(layer.layer(inner.clone()));
                    assert!(assert_ready!(service.enter(|cx, mut service| service.poll_ready(cx))).is_ok());
                    add(admitted);
                    let (ask, counter) = match random.u32(0..3) {
                        0 => (Ask::Hang, abandoned),
                        1 => (Ask::Fail, failed),
                        _ => (Ask::Succeed, succeeded),
                    };
                    // It is dropped at once: its caller left before it had stalled.
                    assert_eq!(task::spawn(service.call(ask)).poll().is_pending(), matches!(ask, Ask::Hang));
                    add(counter);
                }
            });
        }
    });
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (admitted, succeeded, failed) = (read(&admitted), read(&succeeded), read(&failed));
    assert_eq!(admitted, succeeded + failed + read(&ignored) + read(&abandoned));
    let snapshot = circuit.snapshot(now());
    assert_eq!((snapshot.counts.total, snapshot.counts.failed), (succeeded + failed, failed));
    assert_eq!((snapshot.refused, snapshot.late), (read(&refused), 0));
}
