//! Law 15: on the path "closed, healthy, first attempt succeeds" the layers allocate nothing, neither alone nor together. A target of its own, since the
//! allocator it counts with is that of the whole process; one test, since tests of one process run at the same time.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::alloc::System;
use std::future::{Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower::{Layer, Service, ServiceBuilder, ServiceExt as _};
use tower_mesh::Mesh;
use tower_mesh_breaker::outlier::{OutlierConfig, Outliers};
use tower_mesh_breaker::{BreakerConfig, WindowKind};
use tower_mesh_core::classify::ByResult;
use tower_mesh_core::{BoxError, Endpoint, EndpointHandle, Reason};
use tower_mesh_discovery::{Algorithm, Balance, DiscoveryConfig, DiscoveryLayer, FixedList};
use tower_mesh_test::Stepped;
use tower_mesh_tests::{Query, admission, breaker, deadline, health, hedge, retry, seconds};

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

/// A balancer for which everything that can be configured is.
fn balance_by(algorithm: Algorithm) -> Balance<Echo, ByResult> {
    let list = (0..40).map(|i| {
        let endpoint = format!("e{i}:1").parse::<Endpoint>().unwrap().with_priority(i % 2);
        endpoint.with_locality(["a", "b", "c"][i as usize % 3]).unwrap()
    });
    let config = DiscoveryConfig::builder()
        .algorithm(algorithm)
        .slow_start_window(seconds(60))
        .hash_balance_factor(200)
        .subset_size(15)
        .build();
    let list = FixedList::new(list).unwrap();
    let (layer, driver) = DiscoveryLayer::with_config(&list, "users".parse().unwrap(), config.unwrap());
    let layer = layer.locality("a");
    let balance = layer.layer(Echo);
    assert!(Stepped::new(driver).poll().is_pending());
    layer.status().endpoints[0].set(Reason::ProbeDown);
    layer.status().endpoints[2].set(Reason::Degraded);
    balance
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
    assert_eq!(allocations(&hedge().layer(Echo)), 0, "hedge");
    assert_eq!(allocations(&admission().layer(Echo)), 0, "admission alone");
    assert_eq!(allocations(&admission().watching(&endpoint).layer(Echo)), 0, "admission watching");
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
    for (name, algorithm) in Algorithm::ALL {
        assert_eq!(allocations(&balance_by(algorithm)), 0, "{name}, with levels, localities and slow start");
    }

    // A mesh in which everything is switched on, and somebody listens; its background work does not run while calls are counted.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let config = "[services.users]\nendpoints = [\"a:1\", \"b:1\"]\n[services.users.outlier]\n";
    let mesh = Mesh::builder().config_toml(config).measure_calls().build().unwrap();
    let _events = mesh.events();
    let users = mesh.service("users").unwrap().connect(|_: &EndpointHandle| Echo);
    runtime.block_on(async {
        mesh.start().await.unwrap();
        users.clone().oneshot(Query(1)).await.unwrap();
    });
    let _entered = runtime.enter();
    assert_eq!(allocations(&users.map_err(BoxError::from)), 0, "a mesh, its calls measured");

    let boxing = tower::service_fn(|Query(n)| Box::pin(async move { Ok::<_, BoxError>(n) }));
    assert_eq!(allocations(&boxing), 100, "the test can tell");
}
