//! A set of endpoints, its layer and its driver, under a paused clock.

use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use tokio_test::{assert_pending, assert_ready, task};
use tower::ServiceExt;
use tower_layer::Layer;
use tower_mesh_breaker::outlier::policy::{Change, Rule};
use tower_mesh_breaker::outlier::{Outlier, OutlierConfig, OutlierDriver, OutlierEvent, Outliers};
use tower_mesh_breaker::{BreakerConfig, BreakerLayer};
use tower_mesh_core::classify::{ByResult, Origin, Outcome};
use tower_mesh_core::{CallContext, DropReason, EndpointHandle, Reason};
use tower_service::Service;

use crate::inner::{Ask, Inner, Readiness, now};

const SECOND: Duration = Duration::from_secs(1);

struct Set {
    outliers: Outliers,
    driver: task::Spawn<OutlierDriver>,
    endpoints: Vec<EndpointHandle>,
    events: Arc<Mutex<Vec<OutlierEvent>>>,
}

fn endpoints(count: u32) -> Vec<EndpointHandle> {
    (1..=count).map(|i| EndpointHandle::new(format!("a:{i}").parse().unwrap())).collect()
}

/// A driven set.
fn set(config: OutlierConfig, count: u32) -> Set {
    let (outliers, driver) = Outliers::new(config);
    let endpoints = endpoints(count);
    for endpoint in &endpoints {
        outliers.watching(endpoint);
    }
    let events = Arc::new(Mutex::new(Vec::new()));
    let told = events.clone();
    outliers.on_event(move |event: &OutlierEvent| told.lock().unwrap().push(event.clone()));
    let mut driver = task::spawn(driver);
    assert_pending!(driver.poll());
    Set { outliers, driver, endpoints, events }
}

impl Set {
    fn service(&self, i: usize) -> Outlier<Inner> {
        self.outliers.watching(&self.endpoints[i]).layer(Inner::default())
    }

    async fn call(&self, i: usize, ask: Ask, times: usize) {
        let mut service = self.service(i);
        for _ in 0..times {
            let _ = service.ready().await.unwrap().call(ask).await;
        }
    }

    fn out(&self) -> Vec<usize> {
        (0..self.endpoints.len()).filter(|&i| is_out(&self.endpoints[i])).collect()
    }

    /// Lets the driver run for so long.
    async fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            tokio::time::advance(SECOND).await;
            assert_pending!(self.driver.poll());
        }
    }

    fn changes(&self) -> Vec<Change> {
        std::mem::take(&mut *self.events.lock().unwrap()).into_iter().map(|event| event.change).collect()
    }
}

fn is_out(endpoint: &EndpointHandle) -> bool {
    endpoint.availability().contains(Reason::Ejected)
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_eject_at_once_and_each_time_for_longer_until_that_is_forgotten() {
    let mut set = set(OutlierConfig::default(), 4);
    set.call(0, Ask::Fail, 4).await;
    set.call(0, Ask::Succeed, 1).await;
    set.call(0, Ask::Fail, 4).await;
    assert_eq!(set.out(), []);
    set.call(0, Ask::Fail, 1).await;
    assert_eq!(set.out(), [0]);
    set.call(0, Ask::Fail, 20).await;
    let found = set.outliers.status().counts(Rule::Consecutive);
    assert_eq!((found.detected, found.enforced), (1, 1), "while it is out it is not looked at");
    set.pass(29).await;
    assert_eq!(set.out(), [0]);
    set.pass(1).await;
    assert_eq!(set.out(), []);
    assert!(matches!(
        set.changes()[..],
        [Change::Ejected { rule: Rule::Consecutive, time }, Change::Restored] if time == 30 * SECOND
    ));

    set.call(0, Ask::Fail, 4).await;
    assert_eq!(set.out(), [], "rows begin anew");
    set.call(0, Ask::Fail, 1).await;
    set.pass(59).await;
    assert_eq!(set.out(), [0]);
    set.pass(1).await;
    assert_eq!((set.out(), set.outliers.status().members[0].ejections), (vec![], 2));
    set.pass(20).await;
    assert_eq!(set.outliers.status().members[0].ejections, 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_does_worse_than_the_others_is_found_at_the_sweep() {
    let mut set = set(OutlierConfig::default(), 5);
    for i in 0..5 {
        for _ in 0..50 {
            set.call(i, Ask::Succeed, 1).await;
            set.call(i, if i == 3 { Ask::Fail } else { Ask::Succeed }, 1).await;
        }
    }
    assert_eq!(set.out(), []);
    set.pass(10).await;
    assert_eq!(set.out(), [3]);
    assert!(matches!(set.changes()[..], [Change::Ejected { rule: Rule::SuccessRate, .. }]));
    let until = set.outliers.status().members[3].ejected_until.unwrap();
    assert_eq!(until.since(now()), 30 * SECOND);
    // What was counted before the sweep is not counted again.
    set.pass(29).await;
    set.pass(11).await;
    assert_eq!((set.out(), set.changes()), (vec![], vec![Change::Restored]));
}

#[tokio::test(start_paused = true)]
async fn a_slow_one_is_an_outlier_if_that_is_wanted() {
    let config = OutlierConfig::builder().latency_factor(3.0).latency_min_calls(10).build().unwrap();
    let mut set = set(config, 5);
    for i in 0..5 {
        let taken = Duration::from_millis(if i == 1 { 40 } else { 10 });
        set.call(i, Ask::Take(taken), 10).await;
    }
    set.pass(10).await;
    assert_eq!(set.out(), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_counts_and_ejects_none() {
    let config = OutlierConfig::builder().enforce_consecutive(0.0).build().unwrap();
    let set = set(config, 4);
    set.call(0, Ask::Fail, 12).await;
    let found = set.outliers.status().counts(Rule::Consecutive);
    assert_eq!((found.detected, found.enforced, set.out()), (2, 0, vec![]));
    assert_eq!(set.changes(), [Change::NotEnforced(Rule::Consecutive); 2]);
}

#[tokio::test(start_paused = true)]
async fn one_stays_whatever_else_keeps_calls_from_the_others() {
    let config = OutlierConfig::builder().max_ejection_percent(100).build().unwrap();
    let set = set(config, 3);
    set.endpoints[2].set(Reason::ProbeDown);
    set.call(0, Ask::Fail, 5).await;
    set.call(1, Ask::Fail, 5).await;
    assert_eq!(set.out(), [0]);
    assert_eq!(set.outliers.status().counts(Rule::Consecutive).too_many, 1);
    set.endpoints[2].clear(Reason::ProbeDown);
    set.call(1, Ask::Fail, 5).await;
    assert_eq!(set.out(), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_ejected_that_nobody_would_take_back() {
    let (outliers, driver) = Outliers::new(OutlierConfig::default());
    let endpoints = endpoints(4);
    let mut service = outliers.watching(&endpoints[0]).layer(Inner::default());
    for endpoint in &endpoints {
        outliers.watching(endpoint);
    }
    let fail = async |service: &mut Outlier<Inner>| {
        for _ in 0..5 {
            service.ready().await.unwrap().call(Ask::Fail).await.unwrap_err();
        }
    };
    fail(&mut service).await;
    assert!(!is_out(&endpoints[0]), "not driven yet");
    let mut driver = task::spawn(driver);
    assert_pending!(driver.poll());
    fail(&mut service).await;
    assert!(is_out(&endpoints[0]));
    drop(driver);
    assert!(!is_out(&endpoints[0]), "not driven any more");
    fail(&mut service).await;
    assert!(!is_out(&endpoints[0]));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_began_after_the_ejection_and_passes_ends_it() {
    let mut set = set(OutlierConfig::default(), 4);
    let before = now();
    set.pass(1).await;
    set.call(0, Ask::Fail, 5).await;
    assert!(!set.endpoints[0].hint_recovery(before), "it saw what was before");
    assert_eq!(set.out(), [0]);
    assert!(set.endpoints[0].hint_recovery(now() + SECOND));
    assert_eq!(set.out(), []);
    set.pass(10).await;
    assert!(matches!(set.changes()[..], [Change::Ejected { .. }, Change::Recovered]));
    assert_eq!(set.outliers.status().members[0].ejected_until, None);
    set.call(0, Ask::Fail, 5).await;
    assert_eq!(set.out(), [0], "it can be ejected again");

    let strict = OutlierConfig::builder().believe_probes(false).build().unwrap();
    set.outliers.reload(strict);
    set.call(1, Ask::Fail, 5).await;
    assert_eq!(set.out(), [0], "of four one may be");
    set.pass(70).await;
    set.call(1, Ask::Fail, 5).await;
    assert!(!set.endpoints[1].hint_recovery(now() + SECOND));
    assert_eq!(set.out(), [1]);
}

#[tokio::test(start_paused = true)]
async fn dropped_calls_count_by_why_they_were_dropped_and_broken_readiness_counts() {
    let set = set(OutlierConfig::builder().consecutive_failures(1).build().unwrap(), 4);
    let mut service = set.service(0);
    for reason in [DropReason::HedgeLost, DropReason::CallerGone, DropReason::AttemptTimeout] {
        assert_eq!(set.out(), []);
        service.ready().await.unwrap();
        let mut context = CallContext::new();
        let mut future = task::spawn(context.lend(|| service.call(Ask::Hang)));
        assert_pending!(future.poll());
        context.drop_for(reason, future);
    }
    assert_eq!(set.out(), [0]);

    let set = self::set(OutlierConfig::builder().consecutive_failures(2).build().unwrap(), 4);
    let inner = Inner::default();
    inner.set(Readiness::Broken);
    let mut service = set.outliers.watching(&set.endpoints[1]).layer(inner);
    for _ in 0..2 {
        assert_eq!(set.out(), []);
        service.ready().await.unwrap_err();
    }
    assert_eq!(set.out(), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_counts_for_the_set_once_and_even_while_it_is_disabled() {
    let set = set(OutlierConfig::default(), 4);
    let config = BreakerConfig::builder().consecutive_failures(0).min_calls(1000).build().unwrap();
    let layer = BreakerLayer::new(config, ByResult).ejecting(&set.outliers);
    let watching = layer.watching(&set.endpoints[2]);
    let mut service = watching.layer(Inner::default());
    for _ in 0..4 {
        service.ready().await.unwrap().call(Ask::Fail).await.unwrap_err();
    }
    assert_eq!(set.out(), []);
    watching.circuit().disable(now());
    let mut context = CallContext::new();
    service.ready().await.unwrap();
    let mut future = task::spawn(context.lend(|| service.call(Ask::Hang)));
    assert_pending!(future.poll());
    context.drop_for(DropReason::AttemptTimeout, future);
    assert_eq!(set.out(), [2]);
}

#[tokio::test(start_paused = true)]
async fn members_go_with_their_endpoints_and_the_driver_with_the_last() {
    let Set { outliers, mut driver, mut endpoints, .. } = set(OutlierConfig::default(), 4);
    endpoints.pop();
    assert_eq!(outliers.status().members.len(), 3);
    let kept = endpoints.pop().unwrap();
    drop((outliers, endpoints));
    assert!(driver.is_woken());
    assert_pending!(driver.poll());
    drop(kept);
    assert!(driver.is_woken());
    assert_ready!(driver.poll());
}

#[tokio::test(start_paused = true)]
async fn another_interval_begins_anew_and_what_drains_does_not_count() {
    let mut set = set(OutlierConfig::default(), 4);
    set.call(0, Ask::Fail, 5).await;
    set.pass(29).await;
    set.outliers.reload(OutlierConfig::builder().interval(2 * SECOND).build().unwrap());
    assert!(set.driver.is_woken());
    assert_pending!(set.driver.poll());
    set.pass(1).await;
    assert_eq!(set.out(), [0]);
    set.pass(1).await;
    assert_eq!(set.out(), []);

    let half = OutlierConfig::builder().max_ejection_percent(50).at_least_one(false).build().unwrap();
    set.outliers.reload(half);
    for draining in &set.endpoints[1..3] {
        draining.set(Reason::Draining);
    }
    set.endpoints[3].set(Reason::Draining);
    set.call(0, Ask::Fail, 5).await;
    assert_eq!(set.out(), [], "it is the last that does not drain");
    set.endpoints[3].clear(Reason::Draining);
    set.call(0, Ask::Fail, 5).await;
    assert_eq!(set.out(), [0], "one of two");
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_panics_hurts_nobody() {
    let set = set(OutlierConfig::default(), 4);
    set.outliers.on_event(|_| panic!("listener"));
    let later = Arc::new(Mutex::new(0));
    let (told, outliers) = (later.clone(), set.outliers.clone());
    // It may look at the set: no lock is held.
    set.outliers.on_event(move |_| *told.lock().unwrap() = outliers.status().members.len());
    set.call(0, Ask::Fail, 5).await;
    assert_eq!((set.out(), *later.lock().unwrap()), (vec![0], 4));
}

/// However many threads find outliers at a time, not more go than may, and none is ejected twice.
#[tokio::test]
async fn the_cap_holds_under_threads() {
    for _ in 0..20 {
        let set = set(OutlierConfig::builder().max_ejection_percent(40).build().unwrap(), 10);
        let breaker = BreakerConfig::builder().consecutive_failures(0).min_calls(u32::MAX).build().unwrap();
        let layer = BreakerLayer::new(breaker, ByResult).ejecting(&set.outliers);
        let circuits: Vec<_> =
            set.endpoints.iter().map(|endpoint| layer.watching(endpoint).circuit().clone()).collect();
        let (at, barrier) = (now(), Barrier::new(8));
        thread::scope(|scope| {
            for seed in 0..8 {
                let (circuits, barrier) = (&circuits, &barrier);
                let mut random = fastrand::Rng::with_seed(seed);
                scope.spawn(move || {
                    barrier.wait();
                    for _ in 0..200 {
                        let permit = circuits[random.usize(0..10)].acquire(at).unwrap();
                        permit.finish(Outcome::Failure(Origin::Remote), Duration::ZERO, at);
                    }
                });
            }
        });
        assert_eq!(set.out().len(), 4);
        assert_eq!(set.outliers.status().counts(Rule::Consecutive).enforced, 4);
        let ejected = set.changes().iter().filter(|change| matches!(change, Change::Ejected { .. })).count();
        assert_eq!(ejected, 4);
    }
}
