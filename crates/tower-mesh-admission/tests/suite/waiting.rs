//! A bounded queue for places.

use std::task::Poll;

use tower::{Layer, ServiceExt};
use tower_mesh_admission::{AdmissionLayer, LimitAlgorithm, LimitConfig, OverloadReason};
use tower_mesh_core::classify::ByResult;
use tower_mesh_core::{CallContext, EndpointHandle};
use tower_mesh_test::Stepped;

use crate::{ms, now, refusal, sleeper};

fn one_with_queue(waiting: u32) -> LimitConfig {
    let config = LimitConfig::builder().algorithm(LimitAlgorithm::Fixed).initial(1).max_waiting(waiting);
    config.max_wait(ms(100)).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn who_waits_gets_the_place_in_the_order_of_coming_and_is_woken_once() {
    let inner = sleeper();
    for watching in [false, true] {
        let mut layer = AdmissionLayer::new(one_with_queue(2), ByResult);
        if watching {
            layer = layer.watching(&EndpointHandle::new("a:1".parse().unwrap()));
        }
        let service = layer.layer(inner.clone());
        let call = || Stepped::new(service.clone().oneshot(50));
        let (mut first, mut second, mut third, mut fourth) = (call(), call(), call(), call());
        for call in [&mut first, &mut second, &mut third] {
            assert!(call.poll().is_pending());
        }
        assert_eq!(fourth.poll().map(refusal), Poll::Ready(Some(OverloadReason::Limit)), "the queue is full");
        for _ in 0..10 {
            assert!(second.poll().is_pending());
        }
        assert_eq!(second.wakes(), 0, "nobody wakes itself");
        tokio::time::advance(ms(50)).await;
        assert_eq!(first.poll().map(Result::unwrap), Poll::Ready(50));
        assert_eq!((second.wakes(), third.wakes()), (1, 0));
        assert!(second.poll().is_pending());
        tokio::time::advance(ms(51)).await;
        assert_eq!(second.poll().map(Result::unwrap), Poll::Ready(50));
        let limit = layer.snapshot(now()).limit.unwrap();
        assert_eq!((limit.in_flight, limit.waiting), (1, 0), "the third has the place already");
        drop(third);
        assert_eq!(layer.snapshot(now()).limit.unwrap().in_flight, 0, "and gives it back unused");
    }
    assert_eq!(inner.violations(), Vec::<&str>::new());
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_refused_and_who_is_dropped_makes_room() {
    let layer = AdmissionLayer::new(one_with_queue(1), ByResult);
    let service = layer.layer(sleeper());
    let call = |time| Stepped::new(service.clone().oneshot(time));
    let (mut first, mut second) = (call(1000), call(1));
    assert!(first.poll().is_pending() && second.poll().is_pending());
    drop(second);
    assert_eq!(layer.snapshot(now()).limit.unwrap().waiting, 0);
    let mut third = call(1);
    assert!(third.poll().is_pending());
    tokio::time::advance(ms(101)).await;
    assert_eq!(third.wakes(), 1);
    assert_eq!(third.poll().map(refusal), Poll::Ready(Some(OverloadReason::WaitedTooLong)));
    let limit = layer.snapshot(now()).limit.unwrap();
    assert_eq!((limit.in_flight, limit.waiting, limit.refused.normal), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn the_wait_is_no_part_of_the_calls_latency() {
    let service = AdmissionLayer::new(one_with_queue(1), ByResult).layer(sleeper());
    let mut first = Stepped::new(service.clone().oneshot(60));
    assert!(first.poll().is_pending());
    let mut call = CallContext::new();
    let started = call.start(now);
    let mut second = Stepped::new(service.oneshot(10));
    assert!(call.lend(|| second.poll()).is_pending());
    tokio::time::advance(ms(60)).await;
    assert!(first.poll().is_ready());
    assert!(call.lend(|| second.poll()).is_pending());
    assert_eq!(call.started().map(|begins| begins.since(started)), Some(ms(60)));
}
