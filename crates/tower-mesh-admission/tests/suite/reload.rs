//! Another configuration while it is in use.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use tower::{Layer, ServiceExt};
use tower_mesh_admission::{AdmissionConfig, AdmissionLayer, LimitAlgorithm, LimitConfig, SuccessRateConfig};
use tower_mesh_core::EndpointHandle;
use tower_mesh_core::classify::ByResult;
use tower_mesh_test::Stepped;

use crate::{fixed, ms, now, sleeper};

#[tokio::test(start_paused = true)]
async fn a_limit_changes_under_calls_that_are_under_way_and_wakes_who_waits() {
    let queue = |limit| {
        let config = LimitConfig::builder().algorithm(LimitAlgorithm::Fixed).initial(limit).max_waiting(5);
        AdmissionConfig::from(config.build().unwrap())
    };
    let endpoint = EndpointHandle::new("a:1".parse().unwrap());
    let layer = AdmissionLayer::new(queue(1), ByResult);
    for layer_of_one in [layer.clone(), layer.watching(&endpoint)] {
        layer.reload(queue(1));
        let service = layer_of_one.layer(sleeper());
        let call = || Stepped::new(service.clone().oneshot(10));
        let (mut first, mut second, mut third) = (call(), call(), call());
        assert!(first.poll().is_pending() && second.poll().is_pending() && third.poll().is_pending());
        layer.reload(queue(2));
        assert_eq!((second.wakes(), third.wakes()), (1, 0));
        assert!(second.poll().is_pending());
        layer.reload(queue(1));
        drop(first);
        assert_eq!(third.wakes(), 0, "less room: the place is not given on");
        drop(second);
        assert_eq!(third.wakes(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_place_is_admitted_when_the_limit_is_switched_off() {
    let queue = LimitConfig::builder().algorithm(LimitAlgorithm::Fixed).initial(1).max_waiting(5);
    let queue = AdmissionConfig::from(queue.build().unwrap());
    let layer = AdmissionLayer::new(queue, ByResult);
    let service = layer.layer(sleeper());
    let call = || Stepped::new(service.clone().oneshot(10));
    let (mut first, mut second, mut third) = (call(), call(), call());
    assert!(first.poll().is_pending() && second.poll().is_pending() && third.poll().is_pending());
    layer.reload(AdmissionConfig::new());
    assert_eq!((second.wakes(), third.wakes()), (1, 1), "there is nothing to wait for");
    assert!(second.poll().is_pending() && third.poll().is_pending());
    tokio::time::advance(ms(10)).await;
    assert!([first, second, third].iter_mut().all(|call| call.poll().is_ready()));

    layer.reload(queue);
    assert_eq!(layer.snapshot(now()).limit.unwrap().in_flight, 0);
    let (mut first, mut second) = (call(), call());
    assert!(first.poll().is_pending() && second.poll().is_pending());
    assert_eq!(layer.snapshot(now()).limit.unwrap().waiting, 1, "the limit is what it was");
}

/// A task that looks at the limit as soon as it is woken.
struct Looks(AdmissionLayer<ByResult>, Sender<u32>);

impl Wake for Looks {
    fn wake(self: Arc<Self>) {
        let _ = self.1.send(self.0.snapshot(now()).limit.map_or(0, |limit| limit.in_flight));
    }
}

#[test]
fn who_waits_is_woken_under_no_lock() {
    let (told, hears) = channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let queue = |limit| {
            let config = LimitConfig::builder().algorithm(LimitAlgorithm::Fixed).initial(limit);
            AdmissionConfig::from(config.max_waiting(5).build().unwrap())
        };
        let layer = AdmissionLayer::new(queue(1), ByResult);
        let service = layer.layer(sleeper());
        let looks = Waker::from(Arc::new(Looks(layer.clone(), told)));
        let cx = &mut Context::from_waker(&looks);
        let mut calls = [10, 10].map(|time| Box::pin(service.clone().oneshot(time)));
        assert!(calls.iter_mut().all(|call| call.as_mut().poll(cx).is_pending()));
        layer.reload(queue(2));
    });
    assert_eq!(hears.recv_timeout(Duration::from_secs(10)), Ok(2), "else it hangs");
}

#[tokio::test(start_paused = true)]
async fn each_part_is_switched_on_and_off() {
    let layer = AdmissionLayer::new(AdmissionConfig::new(), ByResult);
    let service = layer.layer(sleeper());
    let call = || Stepped::new(service.clone().oneshot(10));
    let (mut first, mut second) = (call(), call());
    assert!(first.poll().is_pending() && second.poll().is_pending());
    assert_eq!(layer.snapshot(now()), Default::default());

    layer.reload(AdmissionConfig::new().limit(fixed(1)).success_rate(SuccessRateConfig::default()));
    let (mut third, mut fourth) = (call(), call());
    assert!(third.poll().is_pending() && fourth.poll().is_ready(), "those from before are not counted");
    layer.reload(AdmissionConfig::new());
    assert!(call().poll().is_pending());
    tokio::time::advance(ms(10)).await;
    assert!(first.poll().is_ready() && second.poll().is_ready() && third.poll().is_ready());
    layer.reload(fixed(1).into());
    assert_eq!(layer.snapshot(now()).limit.unwrap().in_flight, 0, "each gave back what it had taken");
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_switched_on_begins_with_what_it_was_told_to() {
    for algorithm in [LimitAlgorithm::Aimd, LimitAlgorithm::Gradient] {
        let limit = |initial| LimitConfig::builder().algorithm(algorithm).initial(initial).build().unwrap();
        let layer = AdmissionLayer::new(AdmissionConfig::new(), ByResult);
        for initial in [50, 30] {
            layer.reload(limit(initial).into());
            assert_eq!(layer.snapshot(now()).limit.unwrap().limit, initial, "{algorithm:?}");
            layer.reload(AdmissionConfig::new());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_adaptive_limit_goes_on_from_where_it_is_within_its_new_bounds() {
    let aimd = |max| {
        let config = LimitConfig::builder().algorithm(LimitAlgorithm::Aimd).initial(2).min(1).max(max);
        config.build().unwrap()
    };
    let layer = AdmissionLayer::new(aimd(100), ByResult);
    let service = layer.layer(sleeper());
    let limit = || layer.snapshot(now()).limit.unwrap().limit;
    for _ in 0..3 {
        let all: Vec<_> = (0..limit()).map(|_| tokio::spawn(service.clone().oneshot(10))).collect();
        for call in all {
            call.await.unwrap().unwrap();
        }
    }
    let found = limit();
    assert!(found > 4, "{found}");
    layer.reload(aimd(90).into());
    assert_eq!(limit(), found);
    layer.reload(aimd(3).into());
    assert_eq!(limit(), 3);
    layer.reload(fixed(7).into());
    assert_eq!(limit(), 7);
}
