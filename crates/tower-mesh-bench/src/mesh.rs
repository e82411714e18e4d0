//! The stacks of ours.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tower::{BoxError, ServiceBuilder, ServiceExt as _};
use tower_layer::Layer;
use tower_mesh::config::ServiceConfig;
use tower_mesh::{Config, Mesh};
use tower_mesh_breaker::{BreakerConfig, BreakerLayer};
use tower_mesh_core::classify::ByResult;
use tower_mesh_core::probe::{Probe, ProbeFailure, Probed};
use tower_mesh_core::replay::Idempotent;
use tower_mesh_core::{Endpoint, EndpointHandle, ServiceName};
use tower_mesh_discovery::{Algorithm, DiscoveryLayer, FixedList};
use tower_mesh_health::{HealthConfig, HealthLayer};
use tower_mesh_retry::{DeadlineConfig, DeadlineLayer, RetryConfig, RetryLayer};
use tower_service::Service;

use crate::inner::{Echo, Request};

/// A stack under measurement.
pub(crate) trait Stack:
    Service<Request, Response = u64, Error = BoxError, Future: Send> + Clone + Send + 'static
{
}

impl<S> Stack for S where
    S: Service<Request, Response = u64, Error = BoxError, Future: Send> + Clone + Send + 'static
{
}

fn list(endpoints: usize) -> FixedList {
    FixedList::new(addresses(endpoints)).expect("no two alike")
}

fn discovery(endpoints: usize) -> DiscoveryLayer {
    let list = list(endpoints);
    let name: ServiceName = "bench".parse().expect("a name");
    DiscoveryLayer::spawn(&list, name)
}

fn addresses(endpoints: usize) -> impl Iterator<Item = Endpoint> {
    (0..endpoints).map(|i| Endpoint::new(format!("10.0.0.1:{i}")).expect("an address"))
}

/// Discovery and balancing alone. Must be called inside a runtime: the driver is spawned.
pub(crate) fn balance(endpoints: usize) -> impl Stack {
    ServiceBuilder::new().layer(discovery(endpoints)).service(Echo)
}

/// As [`balance`], by another algorithm. A hash key is drawn for each call, as if each were of another user.
pub(crate) fn balance_by(endpoints: usize, algorithm: Algorithm) -> impl Stack {
    ServiceBuilder::new().layer(discovery(endpoints).algorithm(algorithm)).service(Echo)
}

/// As [`balance`], with failover levels: half of the endpoints are of the second.
pub(crate) fn balance_in_levels(endpoints: usize) -> impl Stack {
    let list = (0..endpoints).map(|i| {
        let endpoint = Endpoint::new(format!("10.0.0.1:{i}")).expect("an address");
        endpoint.with_priority((i % 2) as u32)
    });
    let list = FixedList::new(list).expect("no two alike");
    ServiceBuilder::new().layer(DiscoveryLayer::spawn(&list, "bench".parse().expect("a name"))).service(Echo)
}

/// What an update costs, and what endpoints keep.
#[derive(Debug)]
pub(crate) struct Update {
    pub(crate) algorithm: &'static str,
    pub(crate) endpoints: usize,
    /// From the change in the source to the set that calls see, in microseconds: the median.
    pub(crate) us: f64,
    /// The longest call made meanwhile on another thread, in microseconds: the least over the rounds. What the machine puts in between comes in some rounds, what the update
    /// does in all.
    pub(crate) longest_call_us: f64,
    /// Bytes on the heap for each endpoint: list, record, service and set.
    pub(crate) bytes: usize,
}

/// One endpoint of so many changes, again and again, while another thread calls.
pub(crate) fn update(endpoints: usize, (algorithm, by): (&'static str, Algorithm), rounds: usize) -> Update {
    let region = stats_alloc::Region::new(crate::ALLOCATOR);
    let list = list(endpoints);
    let (layer, driver) = DiscoveryLayer::new(&list, "bench".parse().expect("a name"));
    let layer = layer.algorithm(by);
    let mut service = layer.layer(Echo);
    let mut driver = Box::pin(driver);
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(driver.as_mut().poll(&mut cx).is_pending());
    let change = region.change();
    let bytes = (change.bytes_allocated - change.bytes_deallocated) / endpoints;
    let (mut spent, mut longest) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let (begun, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        let caller = || {
            let mut longest = Duration::ZERO;
            while !stop.load(Relaxed) {
                let started = tokio::time::Instant::now();
                let call = std::pin::pin!(service.call(Request(1)));
                let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
                assert!(call.poll(&mut cx).is_ready());
                longest = longest.max(started.elapsed());
                begun.store(true, Relaxed);
            }
            longest
        };
        std::thread::scope(|scope| {
            let calling = scope.spawn(caller);
            while !begun.load(Relaxed) {
                std::hint::spin_loop();
            }
            let weight = std::num::NonZeroU32::MIN.saturating_add((round as u32 + 1) % 2);
            list.upsert(Endpoint::new("10.0.0.1:7").expect("an address").with_weight(weight));
            let started = tokio::time::Instant::now();
            assert!(driver.as_mut().poll(&mut cx).is_pending());
            spent.push(started.elapsed().as_secs_f64() * 1e6);
            stop.store(true, Relaxed);
            longest.push(calling.join().expect("no panic").as_secs_f64() * 1e6);
        });
    }
    let median = |values: Vec<f64>| crate::measure::median(values.into_iter());
    Update {
        algorithm,
        endpoints,
        us: median(spent),
        longest_call_us: longest.into_iter().fold(f64::MAX, f64::min),
        bytes,
    }
}

/// With a circuit around each endpoint.
pub(crate) fn balance_and_breaker(endpoints: usize) -> impl Stack {
    let breaker = BreakerLayer::new(BreakerConfig::default(), ByResult);
    ServiceBuilder::new()
        .layer(discovery(endpoints).per_endpoint(move |endpoint: &EndpointHandle| breaker.watching(endpoint)))
        .service(Echo)
}

/// The whole stack: deadline > retry with an attempt timeout > balance > probes and a circuit around each endpoint.
pub(crate) fn whole(endpoints: usize) -> impl Stack {
    let retry = RetryConfig::builder().attempt_timeout(Duration::from_secs(5)).build().expect("a timeout");
    // What probing costs is not a call's cost: its prober need not run here.
    let (health, _) = HealthLayer::new(HealthConfig::default(), AlwaysWell);
    let breaker = BreakerLayer::new(BreakerConfig::default(), ByResult);
    tower_mesh::Stack::builder()
        .deadline(DeadlineLayer::new(DeadlineConfig::default()))
        .retry(RetryLayer::new(retry, ByResult).replay(Idempotent))
        .discovery(discovery(endpoints).bind(|client: &Echo, _: &EndpointHandle| client.clone()))
        .breaker(breaker)
        .health(health)
        .service(Echo)
}

/// The same through the integrator: a service of a mesh. Must be called inside a runtime, and starts the mesh.
pub(crate) fn mesh(endpoints: usize) -> impl Stack {
    let retry = RetryConfig::builder().attempt_timeout(Duration::from_secs(5)).build().expect("a timeout");
    let service = ServiceConfig::with_endpoints(addresses(endpoints)).retry(retry);
    let config = Config::new().service("bench".parse().expect("a name"), service);
    let mesh = Mesh::builder().config(config).build().expect("a configuration");
    let service =
        mesh.service("bench").expect("it is there").replay(Idempotent).connect(|_: &EndpointHandle| Echo);
    tokio::runtime::Handle::current().spawn(async move { mesh.start().await });
    service.map_err(BoxError::from)
}

struct AlwaysWell;

impl Probe for AlwaysWell {
    async fn probe(&self, _endpoint: &EndpointHandle) -> Result<Probed, ProbeFailure> {
        Ok(Probed::Healthy)
    }
}
