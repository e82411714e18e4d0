//! Law 15: on the path "closed, healthy, first attempt succeeds" the layers allocate nothing, neither alone nor together. A target of its own, since the
//! allocator it counts with is that of the whole process; one test, since tests of one process run at the same time.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::alloc::System;
use std::future::{Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower::{Layer, Service, ServiceBuilder};
use tower_mesh_breaker::outlier::{OutlierConfig, Outliers};
use tower_mesh_breaker::{BreakerConfig, WindowKind};
use tower_mesh_core::{BoxError, EndpointHandle};
use tower_mesh_discovery::{DiscoveryLayer, FixedList};
use tower_mesh_test::Stepped;
use tower_mesh_tests::{Query, breaker, deadline, health, retry};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Answers at once, without an allocation of its own.
#[derive(Debug, Clone, Copy)]
struct Echo;

impl Service<Query> for Echo {
    type Response = u32;
    type Error = BoxError;
    type Future = Ready<Result<u32, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, Query(n): Query) -> Self::Future {
        ready(Ok(n))
    }
}

/// How many allocations a hundred calls make, clones of the service included.
fn allocations<S>(service: &S) -> usize
where
    S: Service<Query, Response = u32, Error = BoxError> + Clone,
{
    let cx = &mut Context::from_waker(Waker::noop());
    let mut call = |n| {
        let mut service = service.clone();
        assert!(matches!(service.poll_ready(cx), Poll::Ready(Ok(()))));
        let future = pin!(service.call(Query(n)));
        assert!(matches!(future.poll(cx), Poll::Ready(Ok(answer)) if answer == n));
    };
    // What is set up once for a thread is not counted.
    (0..100).for_each(&mut call);
    // The least of several rounds: the thread that waits for this test allocates too, now and then.
    let rounds = (0..5).map(|_| {
        let region = Region::new(ALLOCATOR);
        (0..100).for_each(&mut call);
        let change = region.change();
        change.allocations + change.reallocations
    });
    rounds.min().unwrap_or_default()
}

#[test]
fn the_ready_path_allocates_nothing() {
    let list = FixedList::new(["a:1", "b:1", "c:1"].map(|address| address.parse().unwrap())).unwrap();
    let (discovery, driver) = DiscoveryLayer::new(&list, "users".parse().unwrap());
    let (breakers, watching) = (breaker(), breaker());
    let endpoint = EndpointHandle::new("a:1".parse().unwrap());

    let balance = discovery.clone().layer(Echo);
    let composed = ServiceBuilder::new()
        .layer(deadline())
        .layer(retry())
        .layer(discovery.per_endpoint(move |endpoint: &EndpointHandle| watching.watching(endpoint)))
        .service(Echo);
    let mut driver = Stepped::new(driver);
    assert!(driver.poll().is_pending());

    assert_eq!(allocations(&Echo), 0, "the floor");
    assert_eq!(allocations(&deadline().layer(Echo)), 0, "deadline");
    assert_eq!(allocations(&retry().layer(Echo)), 0, "retry");
    assert_eq!(allocations(&breakers.layer(Echo)), 0, "breaker alone");
    assert_eq!(allocations(&breakers.watching(&endpoint).layer(Echo)), 0, "breaker watching");
    let keyed = breaker().keyed(|query: &Query| query.0);
    assert_eq!(allocations(&keyed.layer(Echo)), 0, "breaker keyed, with keys that are known");
    let outliers = Outliers::new(OutlierConfig::default()).0;
    assert_eq!(allocations(&outliers.watching(&endpoint).layer(Echo)), 0, "outlier");
    let ejecting = breaker().ejecting(&outliers).watching(&endpoint);
    assert_eq!(allocations(&ejecting.layer(Echo)), 0, "breaker and outlier in one");
    ejecting.reload(BreakerConfig::builder().window(WindowKind::Calls(50)).build().unwrap());
    assert_eq!(allocations(&ejecting.layer(Echo)), 0, "the same with another window");
    assert_eq!(allocations(&health().guarding(&endpoint).layer(Echo)), 0, "health");
    assert_eq!(allocations(&balance), 0, "discovery");
    assert_eq!(allocations(&composed), 0, "composed");

    let boxing = tower::service_fn(|Query(n)| Box::pin(async move { Ok::<_, BoxError>(n) }));
    assert_eq!(allocations(&boxing), 100, "the test can tell");
}
