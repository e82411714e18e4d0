//! A fixed limit: who gets a place, and when it is free again.

use std::error::Error;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt};
use tower_mesh_admission::{AdmissionConfig, AdmissionLayer, OverloadReason, Overloaded};
use tower_mesh_breaker::{BreakerConfig, BreakerLayer, State};
use tower_mesh_core::classify::{ByResult, Guard, Outcome, Retry, Verdict, judge};
use tower_mesh_core::{BoxError, CallContext, Classify, EndpointHandle, error};
use tower_mesh_test::{Inner, Stepped};

use crate::{fixed, ms, now, refusal, sleeper};

#[tokio::test(start_paused = true)]
async fn one_more_than_the_limit_is_refused_and_nothing_is_sent() {
    let (inner, layer) = (sleeper(), AdmissionLayer::new(fixed(2), ByResult));
    let service = layer.layer(inner.clone());
    let call = || service.clone().oneshot(10);
    let (a, b, c) = tokio::join!(call(), call(), call());
    assert_eq!((a.unwrap(), b.unwrap()), (10, 10));
    let refused = c.unwrap_err();
    assert_eq!(error::find::<Overloaded>(&*refused).map(Overloaded::reason), Some(OverloadReason::Limit));
    let verdict = judge::<u64, _>(&ByResult, Err(&*refused));
    assert_eq!((verdict.outcome, verdict.retry), (Outcome::Refused, Retry::NotProcessed));
    assert_eq!(inner.calls(), 2);
    assert_eq!(service.oneshot(10).await.unwrap(), 10, "and then there is room again");
    let limit = layer.snapshot(now()).limit.unwrap();
    assert_eq!((limit.limit, limit.in_flight, limit.refused.normal, limit.refused.total()), (2, 0, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn every_way_in_which_a_call_ends_gives_the_place_back() {
    let inner = Inner::new(|_, how: &'static str| async move {
        match how {
            "panics" => panic!("in the inner future"),
            "fails" => Err(BoxError::from("down")),
            "hangs" => std::future::pending().await,
            _ => Ok(()),
        }
    });
    let layer = AdmissionLayer::new(fixed(1), ByResult);
    let service = layer.layer(inner);
    let in_flight = || layer.snapshot(now()).limit.unwrap().in_flight;

    assert!(service.clone().oneshot("fails").await.is_err());
    assert_eq!(in_flight(), 0);
    let mut hangs = Stepped::new(service.clone().oneshot("hangs"));
    assert!(hangs.poll().is_pending());
    assert_eq!(in_flight(), 1);
    drop(hangs);
    assert_eq!(in_flight(), 0);
    let panics = tokio::spawn(service.clone().oneshot("panics")).await;
    assert!(panics.unwrap_err().is_panic());
    assert_eq!(in_flight(), 0);
    // One that is made and never polled.
    let mut service = service;
    drop(poll_fn(|cx| service.poll_ready(cx)).await.map(|()| service.call("is good")));
    assert_eq!(in_flight(), 0);
}

/// A response whose guards hear of its end when it is dropped or read.
#[derive(Clone)]
struct Streaming;

impl<B> Classify<B> for Streaming {
    type Response<G: Guard> = (B, G);

    fn head(&self, result: Result<&B, &(dyn Error + 'static)>) -> Verdict {
        if result.is_ok() { Verdict::UNDECIDED } else { Verdict::IGNORED }
    }

    fn attach<G: Guard>(&self, body: B, _: Verdict, guard: G) -> (B, G) {
        (body, guard)
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_is_held_until_the_body_has_ended() {
    let service = AdmissionLayer::new(fixed(1), Streaming).layer(sleeper());
    let (_, mut body) = service.clone().oneshot(1).await.unwrap();
    body.progress();
    assert_eq!(refusal(service.clone().oneshot(1).await), Some(OverloadReason::Limit));
    body.finish(Verdict::SUCCESS);
    let (_, body) = service.clone().oneshot(1).await.unwrap();
    drop(body);
    assert!(service.oneshot(1).await.is_ok(), "a body that nobody reads to its end is over too");
}

#[tokio::test(start_paused = true)]
async fn watching_an_endpoint_it_refuses_before_the_request_is_spent_and_an_unused_clone_holds_nothing() {
    let (a, b) = (EndpointHandle::new("a:1".parse().unwrap()), EndpointHandle::new("b:1".parse().unwrap()));
    let layer = AdmissionLayer::new(fixed(1), ByResult);
    let service = layer.watching(&a).layer(sleeper());
    let mut ready = service.clone();
    poll_fn(|cx| Service::<u64>::poll_ready(&mut ready, cx)).await.unwrap();
    let mut other = service.clone();
    let refused = poll_fn(|cx| Service::<u64>::poll_ready(&mut other, cx)).await;
    assert_eq!(refusal(refused), Some(OverloadReason::Limit));
    let mut same = layer.watching(&a).layer(sleeper());
    assert!(
        poll_fn(|cx| Service::<u64>::poll_ready(&mut same, cx)).await.is_err(),
        "one endpoint, one limit"
    );
    assert!(layer.watching(&b).layer(sleeper()).oneshot(1).await.is_ok(), "another endpoint, another limit");
    // A clone of one that has a place has none.
    let mut clone = ready.clone();
    assert!(poll_fn(|cx| Service::<u64>::poll_ready(&mut clone, cx)).await.is_err());
    drop(ready);
    assert_eq!(service.clone().oneshot(7).await.unwrap(), 7);
    assert_eq!(layer.endpoints(now()).len(), 1, "what is counted goes with the services of its endpoint");
    assert_eq!(layer.endpoints(now())[0].0.as_str(), "a:1");
}

#[tokio::test(start_paused = true)]
async fn a_circuit_around_it_does_not_take_a_refusal_for_a_failure() {
    let endpoint = EndpointHandle::new("a:1".parse().unwrap());
    let breaker = BreakerLayer::new(BreakerConfig::default(), ByResult).watching(&endpoint);
    let limit = AdmissionLayer::new(fixed(1), ByResult).watching(&endpoint);
    let service = breaker.layer(limit.layer(sleeper()));
    let mut under_way = Stepped::new(service.clone().oneshot(1000));
    assert!(under_way.poll().is_pending());
    for _ in 0..20 {
        assert_eq!(refusal(service.clone().oneshot(1).await), Some(OverloadReason::Limit));
    }
    assert_eq!((breaker.circuit().state(), endpoint.availability().is_blocked()), (State::Closed, false));
    tokio::time::advance(ms(1000)).await;
    assert_eq!(under_way.poll().map(Result::unwrap), Poll::Ready(1000));
}

#[tokio::test(start_paused = true)]
async fn one_with_nothing_to_go_by_reads_no_clock() {
    let layer = AdmissionLayer::new(AdmissionConfig::new(), ByResult);
    let endpoint = EndpointHandle::new("a:1".parse().unwrap());
    for (layer, is_read) in [
        (layer.clone(), false),
        (layer.watching(&endpoint), false),
        (AdmissionLayer::new(fixed(1), ByResult).watching(&endpoint), true),
    ] {
        let mut context = CallContext::new();
        let never = tower::service_fn(|()| std::future::pending::<Result<(), BoxError>>());
        let mut call = Stepped::new(layer.layer(never).oneshot(()));
        assert!(context.lend(|| call.poll()).is_pending());
        assert_eq!(context.started().is_some(), is_read, "{layer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_with_nothing_to_go_by_counts_nothing_until_it_is_switched_on() {
    let layer = AdmissionLayer::new(AdmissionConfig::new(), ByResult);
    let service = layer.layer(sleeper());
    let call = || Stepped::new(service.clone().oneshot(5));
    let mut before: Vec<_> = (0..50).map(|_| call()).collect();
    assert!(before.iter_mut().all(|call| call.poll().is_pending()));
    assert_eq!(layer.snapshot(now()), Default::default());

    layer.reload(fixed(1).into());
    let mut counted = call();
    assert!(counted.poll().is_pending(), "those from before are not counted");
    assert_eq!(refusal(service.clone().oneshot(1).await), Some(OverloadReason::Limit));
    tokio::time::advance(ms(5)).await;
    assert!(before.iter_mut().all(|call| call.poll().is_ready()) && counted.poll().is_ready());
    assert_eq!(layer.snapshot(now()).limit.unwrap().in_flight, 0);

    layer.reload(AdmissionConfig::new());
    let mut after: Vec<_> = (0..50).map(|_| call()).collect();
    assert!(after.iter_mut().all(|call| call.poll().is_pending()));
    assert_eq!(layer.snapshot(now()), Default::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_never_exceed_the_limit_and_leave_nothing_behind() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Inside(Arc<AtomicU32>);
    impl Drop for Inside {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    let (now_in, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let inner = {
        let (now_in, most) = (now_in.clone(), most.clone());
        tower::service_fn(move |()| {
            let (now_in, most) = (now_in.clone(), most.clone());
            async move {
                most.fetch_max(now_in.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let _inside = Inside(now_in);
                tokio::task::yield_now().await;
                Ok::<_, BoxError>(())
            }
        })
    };
    let config = tower_mesh_admission::LimitConfig::builder()
        .algorithm(tower_mesh_admission::LimitAlgorithm::Fixed)
        .initial(5)
        .max_waiting(4)
        .build()
        .unwrap();
    let layer = AdmissionLayer::new(config, ByResult);
    let service = BoxCloneSyncService::new(layer.layer(inner));
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let service = service.clone();
            tokio::spawn(async move {
                for i in 0..500 {
                    let mut call = pin!(service.clone().oneshot(()));
                    if (task + i) % 7 == 0 {
                        // Dropped after one poll: before, during or after its wait.
                        poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_ready())).await;
                    } else {
                        let _ = call.await;
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let limit = layer.snapshot(now()).limit.unwrap();
    assert_eq!((limit.in_flight, limit.waiting), (0, 0));
    assert!((1..=5).contains(&most.load(Ordering::SeqCst)), "{most:?}");
}
