//! The stacks of ours.

use std::time::Duration;

use tower::{BoxError, ServiceBuilder, ServiceExt as _};
use tower_mesh::config::ServiceConfig;
use tower_mesh::{Config, Mesh};
use tower_mesh_breaker::{BreakerConfig, BreakerLayer};
use tower_mesh_core::classify::ByResult;
use tower_mesh_core::probe::{Probe, ProbeFailure, Probed};
use tower_mesh_core::replay::Idempotent;
use tower_mesh_core::{Endpoint, EndpointHandle, ServiceName};
use tower_mesh_discovery::{DiscoveryLayer, FixedList};
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

fn discovery(endpoints: usize) -> DiscoveryLayer {
    let list = FixedList::new(addresses(endpoints)).expect("no two alike");
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
    ServiceBuilder::new()
        .layer(DeadlineLayer::new(DeadlineConfig::default()))
        .layer(RetryLayer::new(retry, ByResult).replay(Idempotent))
        .layer(discovery(endpoints).per_endpoint(move |endpoint: &EndpointHandle| {
            (health.watching(endpoint), breaker.watching(endpoint))
        }))
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
