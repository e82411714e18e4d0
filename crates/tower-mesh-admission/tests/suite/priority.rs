//! Who is refused first.

use std::task::Poll;

use tower::{Layer, Service, ServiceExt};
use tower_mesh_admission::{Admission, AdmissionLayer, LimitAlgorithm, LimitConfig, OverloadReason};
use tower_mesh_core::classify::ByResult;
use tower_mesh_core::{BoxError, CallContext, EndpointHandle, Priority};
use tower_mesh_test::{Inner, Stepped};

use crate::{now, refusal, sleeper};

type Limited = Admission<Inner<u64, u64>, ByResult>;

/// A call of this priority, begun: its context is lent while it is polled.
fn begin(
    service: &Limited,
    priority: Priority,
) -> (Poll<Option<OverloadReason>>, Stepped<impl Future<Output = Result<u64, BoxError>>>) {
    let mut call = Stepped::new(service.clone().oneshot(1000));
    let mut context = CallContext::new().with_priority(priority);
    (context.lend(|| call.poll()).map(refusal), call)
}

#[tokio::test(start_paused = true)]
async fn a_lower_priority_is_shed_while_there_is_room_for_a_higher_one() {
    for watching in [false, true] {
        let config = LimitConfig::builder().algorithm(LimitAlgorithm::Fixed).initial(10);
        let config = config.sheddable_share(0.5).normal_share(0.8).build().unwrap();
        let mut layer = AdmissionLayer::new(config, ByResult);
        if watching {
            layer = layer.watching(&EndpointHandle::new("a:1".parse().unwrap()));
        }
        let service = layer.layer(sleeper());
        let mut held = Vec::new();
        // Each fills what it may take; whoever is below it is shed from there on.
        for (priority, places) in [(Priority::Sheddable, 5), (Priority::Normal, 8), (Priority::Critical, 10)]
        {
            while layer.snapshot(now()).limit.unwrap().in_flight < places {
                let (answer, call) = begin(&service, priority);
                assert!(answer.is_pending(), "{priority}: there is room up to {places}");
                held.push(call);
            }
            for (_, lower) in Priority::ALL.into_iter().filter(|(_, lower)| *lower <= priority) {
                let (answer, _) = begin(&service, lower);
                assert_eq!(answer, Poll::Ready(Some(OverloadReason::Limit)), "{lower} at {places}");
            }
        }
        let refused = layer.snapshot(now()).limit.unwrap().refused;
        assert_eq!((refused.sheddable, refused.normal, refused.critical), (3, 2, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn the_more_important_call_takes_the_place_in_the_queue() {
    let config = LimitConfig::builder().algorithm(LimitAlgorithm::Fixed).initial(1).max_waiting(1);
    let layer = AdmissionLayer::new(config.build().unwrap(), ByResult);
    let service = layer.layer(sleeper());
    let (_, under_way) = begin(&service, Priority::Normal);
    let (_, mut report) = begin(&service, Priority::Sheddable);
    let (_, mut checkout) = begin(&service, Priority::Critical);
    assert_eq!(report.wakes(), 1);
    assert_eq!(report.poll().map(refusal), Poll::Ready(Some(OverloadReason::Displaced)));
    let (answer, _) = begin(&service, Priority::Critical);
    assert_eq!(answer, Poll::Ready(Some(OverloadReason::Limit)), "nobody displaces an equal");
    drop(under_way);
    assert_eq!(checkout.wakes(), 1);
    assert!(checkout.poll().is_pending());
    assert_eq!(layer.snapshot(now()).limit.unwrap().in_flight, 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_context_a_call_is_a_normal_one() {
    let config = LimitConfig::builder().algorithm(LimitAlgorithm::Fixed).initial(10);
    let layer = AdmissionLayer::new(config.normal_share(0.1).build().unwrap(), ByResult);
    let mut service = layer.layer(sleeper());
    let _one = service.ready().await.unwrap().call(1000);
    assert_eq!(refusal(service.ready().await.unwrap().call(1000).await), Some(OverloadReason::Limit));
}
